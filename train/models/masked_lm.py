"""Masked language modelling: which tokens are hidden from the model, and its scores for them alone.

Of the tokens that are not special a share is chosen; 80% of these become the mask token, 10% a random one, 10% stay as
they are, and the model is to say what they were (Devlin et al. 2019). What becomes of a token is a pure function of
seed, epoch, row and its place in the row. So the same step hides the same tokens however it is cut into micro-batches
and padded, on any device, after `--resume` too; and no state is kept and nothing waits for the device.

Only hidden tokens have a loss, so the head, whose last matrix is as wide as the vocabulary, is computed for them alone.

Shapes: B rows, W columns, K tokens that are scored, V ids of the vocabulary, H width of the encoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from cache import Batch, Cache
from cache.format.special_tokens import read_specials
from cache.format.tasks import IGNORED

PROBABILITY = 0.15
"""The share of tokens that is hidden where nobody says otherwise, and in every evaluation."""
EVALUATION_SEED = 0
"""In evaluations the same tokens are hidden whatever the run's seed, so that runs can be compared."""

Forward = Callable[..., torch.Tensor]
"""From a model's inputs and `positions` (K,) in its (B x W,) tokens to their logits (K, V)."""


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        seed: of the choice.
        probability: share of the tokens that are not special.
        mask_id: the mask token.
        special: (V,) bool on the device, True at ids that are never hidden.
        exact: whether to wait until the number of hidden tokens is known, which costs nothing on a CPU; else a few
            more than there should be are scored, and count for nothing.
    """

    seed: int
    probability: float
    mask_id: int
    special: torch.Tensor
    exact: bool

    @classmethod
    def of(
        cls, cache: Cache, device: torch.device, seed: int = EVALUATION_SEED, probability: float = PROBABILITY
    ) -> Self:
        """The masking of a cache's rows.

        Raises:
            InputError: its tokenizer has no mask token.
        """
        tokenizer = cache.manifest.tokenizer
        files = {path.name: path.read_bytes() for path in cache.tokenizer_folder.iterdir()}
        specials = read_specials(files, tokenizer.name)
        special = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
        special[[number for number in (*specials.ids, tokenizer.pad_id) if number < len(special)]] = True
        return cls(seed, probability, specials.mask_id, special.to(device), device.type == "cpu")

    def hide(self, batch: Batch, epoch: int = 0) -> Batch:
        """A batch, padded on the right, with some tokens hidden; its labels (B, W) say what these were, `IGNORED`
        elsewhere."""
        ids = batch.input_ids
        bits = self._bits(batch, epoch)  # (B, W): 24 to choose by, 16 for what it becomes, 24 for which random one
        chosen = (bits >> 40 & 0xFFFFFF) < round(self.probability * (1 << 24))
        chosen &= ~self.special[ids]
        fate = bits >> 24 & 0xFFFF
        other = (bits & 0xFFFFFF) % len(self.special)
        shown = torch.where(fate < 0.9 * (1 << 16), other, ids)
        shown = torch.where(fate < 0.8 * (1 << 16), self.mask_id, shown)
        labels = torch.where(chosen, ids, IGNORED)
        return replace(batch, input_ids=torch.where(chosen, shown, ids), labels=labels)

    def _bits(self, batch: Batch, epoch: int) -> torch.Tensor:
        """(B, W) int64: each row is a stream of SplitMix64 of its own, column by column."""
        device, width = batch.input_ids.device, batch.input_ids.shape[1]
        start = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0])
        rows = torch.from_numpy(batch.rows)
        if device.type != "cpu":
            rows = rows.pin_memory().to(device, non_blocking=True)
        return split_mix(split_mix(_signed(start), rows)[:, None], torch.arange(width, device=device))

    def scored(self, batch: Batch) -> torch.Tensor:
        """(K,) positions in the (B x W,) tokens of a batch from `hide`: the hidden ones, and others unless `exact`."""
        labels = _labels(batch).flatten()
        if self.exact:
            return (labels != IGNORED).nonzero()[:, 0]
        share, tokens = self.probability, batch.real_tokens
        # Eight standard deviations above the mean: tokens beyond are left out of the loss, if that ever happens.
        most = math.ceil(tokens * share + 8 * math.sqrt(tokens * share) + 8)
        return (labels != IGNORED).byte().topk(min(most, len(labels)), sorted=False).indices


def _labels(batch: Batch) -> torch.Tensor:
    if batch.labels is None:
        raise TypeError("the batch holds no labels; it must come from Masking.hide")
    return batch.labels


def hidden_tokens(batch: Batch) -> torch.Tensor:
    """() int64, how many tokens of a batch from `Masking.hide` are hidden; stays on the device."""
    return (_labels(batch) != IGNORED).sum()


def summed_loss(
    forward: Forward, labels: torch.Tensor, positions: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cross-entropy of hidden tokens.

    Args:
        forward: from `masked_forward`.
        labels: (B, W) from `Masking.hide`.
        positions: (K,) from `Masking.scored`.
        inputs: the model's other inputs.

    Returns:
        () the loss, summed over hidden tokens; (K, V) logits; (K,) labels.
    """
    labels = labels.flatten()[positions]
    logits = forward(positions=positions, **inputs)
    return cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum"), logits, labels


# --- SplitMix64 (Steele, Lea, Flood 2014), in int64 that wraps around


def split_mix(state: "torch.Tensor | int", places: torch.Tensor) -> torch.Tensor:
    """Numbers of a stream, counted from 0.

    Args:
        state: where the stream begins: one for all, or int64 of a shape that goes with that of `places`.
        places: int64, which numbers of it.

    Returns:
        int64, the bits of the unsigned numbers.
    """
    bits = state + (places + 1) * _signed(0x9E3779B97F4A7C15)
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros coming in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return number - (number >> 63 << 64)


# --- the head, for some tokens


def masked_forward(model: PreTrainedModel) -> tuple[Forward, str]:
    """A masked language model's logits for some tokens.

    Returns:
        What computes them; and empty, or why the head is computed for every token.
    """
    head = HEADS.get(f"{type(model).__module__}.{type(model).__name__}")
    encoder = model.base_model

    def forward(positions: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        if head is None:
            logits: torch.Tensor = model(**inputs).logits  # (B, W, V)
            return logits.flatten(0, 1)[positions]
        hidden = encoder(**inputs)[0]  # (B, W, H)
        return head(model, hidden.flatten(0, 1)[positions])

    return forward, "" if head else f"{type(model).__name__} has no form that scores some of them"


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
"""The head of each class that is tested to work token by token, through the model's own modules."""
