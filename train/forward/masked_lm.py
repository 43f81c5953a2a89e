"""Masked language modelling: which tokens are masked, and logits for them alone.

Of the tokens that are not special a fraction is chosen; 80% of these become the mask token, 10% a random one, 10% stay
as they are, and the model predicts what they were (Devlin et al. 2019). What a token becomes is a pure function of
seed, epoch, row and position in the row. So a step masks the same tokens however it is divided into micro-batches and
padded, on any device, and after `--resume`; no state is kept, and nothing waits for the device.

Only masked tokens have a loss, so the head, whose last matrix is as wide as the vocabulary, is computed for them alone.

Shapes: B rows, W columns, K masked positions, V ids of the vocabulary, H width of the encoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from cache import Batch, Split
from cache.batches.transfer import to_device
from cache.format.special_tokens import read_specials
from cache.format.tasks import IGNORED

PROBABILITY = 0.15
"""The default probability of masking a token, also used in every evaluation."""
EVALUATION_SEED = 0
"""Evaluations mask the same tokens whatever the run's seed, so that runs can be compared."""

Forward = Callable[..., torch.Tensor]
"""From a model's inputs and `positions` (K,) in its (B x W,) tokens to the logits there (K, V)."""


@dataclass(frozen=True)
class Masking:
    """How tokens are masked.

    Attributes:
        seed: of the choice.
        probability: of masking a token that is not special.
        mask_id: the mask token.
        pad_id: the pad token, which no token becomes: RoBERTa and its relatives number positions by it.
        special: (V,) bool on the device, True at ids that are never masked.
        exact: whether to wait until the number of masked tokens is known, which costs nothing on a CPU; otherwise
            logits are computed for a few more positions than expected, and those without a label are ignored.
    """

    seed: int
    probability: float
    mask_id: int
    pad_id: int
    special: torch.Tensor
    exact: bool

    @classmethod
    def of(
        cls, split: Split, device: torch.device, seed: int = EVALUATION_SEED, probability: float = PROBABILITY
    ) -> Self:
        """The masking of a split's rows.

        Raises:
            InputError: its tokenizer has no mask token.
        """
        tokenizer = split.tokenizer
        specials = read_specials(split.tokenizer_files(), tokenizer.name)
        special = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        special[[number for number in (*specials.ids, tokenizer.pad_id) if number < len(special)]] = True
        return cls(seed, probability, specials.mask_id, tokenizer.pad_id, special.to(device), device.type == "cpu")

    def mask(self, batch: Batch, epoch: int = 0) -> Batch:
        """The batch, packed or padded on the right, with some tokens masked; its labels (B, W) are their original ids,
        and `IGNORED` elsewhere. In a dummy batch none is masked."""
        ids = batch.input_ids
        if not len(batch):
            return replace(batch, labels=torch.full_like(ids, IGNORED))
        bits = self._bits(batch, epoch)  # (B, W): 24 to choose tokens, 16 for what each becomes, 24 for a random id
        chosen = (bits >> 40 & 0xFFFFFF) < round(self.probability * (1 << 24))
        chosen &= ~self.special[ids]
        outcome = bits >> 24 & 0xFFFF
        other = (bits & 0xFFFFFF) % len(self.special)
        drawn = (outcome < 0.9 * (1 << 16)) & (other != self.pad_id)
        masked = torch.where(drawn, other, ids)
        masked = torch.where(outcome < 0.8 * (1 << 16), self.mask_id, masked)
        labels = torch.where(chosen, ids, IGNORED)
        return replace(batch, input_ids=torch.where(chosen, masked, ids), labels=labels)

    def _bits(self, batch: Batch, epoch: int) -> torch.Tensor:
        """(B, W) int64: each row is a stream of SplitMix64 of its own, token by token."""
        device, width = batch.input_ids.device, batch.input_ids.shape[1]
        start = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0])
        rows = to_device(torch.from_numpy(batch.rows), device)
        streams = split_mix(_signed(start), rows)  # (B,)
        if batch.cu_seq_lens is not None and batch.position_ids is not None:
            return split_mix(streams.repeat_interleave(batch.cu_seq_lens.diff(), output_size=width), batch.position_ids)
        return split_mix(streams[:, None], torch.arange(width, device=device))

    def masked_positions(self, batch: Batch) -> torch.Tensor:
        """(K,) positions in the (B x W,) tokens of a batch from `mask`: the masked ones, and others unless `exact`."""
        assert batch.labels is not None
        labels = batch.labels.flatten()
        if self.exact:
            return (labels != IGNORED).nonzero()[:, 0]
        mean = self.probability * batch.real_tokens
        # Eight standard deviations above the mean; masked tokens beyond that, if ever, are left out of the loss.
        most = math.ceil(mean + 8 * math.sqrt(mean) + 8)
        return (labels != IGNORED).byte().topk(min(most, len(labels)), sorted=False).indices


def masked_tokens(batch: Batch) -> torch.Tensor:
    """() int64, the number of masked tokens of a batch from `Masking.mask`; stays on the device."""
    assert batch.labels is not None
    return (batch.labels != IGNORED).sum()


def summed_loss(
    forward: Forward, labels: torch.Tensor, positions: torch.Tensor, **inputs: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cross-entropy of masked tokens.

    Args:
        forward: from `masked_forward`.
        labels: (B, W) from `Masking.mask`.
        positions: (K,) from `Masking.masked_positions`.
        inputs: the model's other inputs.

    Returns:
        () the loss, summed over masked tokens; (K, V) logits; (K,) labels.
    """
    labels = labels.flatten()[positions]
    logits = forward(positions=positions, **inputs)
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum"), logits, labels


# --- SplitMix64 (Steele, Lea, Flood 2014), in int64 that wraps around


def split_mix(state: "torch.Tensor | int", positions: torch.Tensor) -> torch.Tensor:
    """Numbers of a stream, as int64 of the same bits: those at `positions`, counted from 0, where `state` is where the
    stream begins, one for all or of a shape that broadcasts."""
    bits = state + (positions + 1) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right, filling with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return number - (number >> 63 << 64)


# --- the head, at some positions


def masked_forward(model: PreTrainedModel) -> tuple[Forward, str | None]:
    """The function that computes a masked language model's logits at some positions; and None, or the reason why it
    computes the head for every token."""
    head = HEADS.get(f"{type(model).__module__}.{type(model).__name__}")
    encoder = model.base_model

    def forward(positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
        if head is None:
            logits: torch.Tensor = model(**inputs).logits  # (B, W, V)
            return logits.flatten(0, 1)[positions]
        hidden = encoder(**inputs)[0]  # (B, W, H)
        return head(model, hidden.flatten(0, 1)[positions])

    return forward, None if head else f"the head of {type(model).__name__} is not supported"


def is_masked_model(model: PreTrainedModel) -> bool:
    """Whether a model's head predicts tokens."""
    return type(model).__name__.endswith("ForMaskedLM")


def _distilbert(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model.vocab_projector(
        model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    )
    return logits


HEADS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    f"transformers.models.{module}.modeling_{module}.{name}ForMaskedLM": head
    for module, name, head in (
        ("bert", "Bert", lambda model, hidden: model.cls(hidden)),
        ("roberta", "Roberta", lambda model, hidden: model.lm_head(hidden)),
        ("xlm_roberta", "XLMRoberta", lambda model, hidden: model.lm_head(hidden)),
        ("camembert", "Camembert", lambda model, hidden: model.lm_head(hidden)),
        ("electra", "Electra", lambda model, hidden: model.generator_lm_head(model.generator_predictions(hidden))),
        ("modernbert", "ModernBert", lambda model, hidden: model.decoder(model.head(hidden))),
        ("distilbert", "DistilBert", _distilbert),
    )
}
"""The head of each model class that is tested at single positions, through the model's own modules."""
