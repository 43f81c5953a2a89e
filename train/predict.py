"""Predictions for new texts, batched by length and returned in input order.

Shapes: B rows, W columns, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cache.common.pairs import truncated_pair
from cache.errors import InputError, MismatchError
from cache.format.labels import token_types
from cache.format.tasks import TOKENS
from cache.reading.padding import gather_rows, row_mask

from .forward.half_weights import HalfWeights
from .forward.inputs import takes_token_types
from .models.fit import vocabulary_size
from .models.heads import kind_of, label_names
from .models.library_errors import library_errors
from .models.trained import load_text_classifier
from .run_folder.export import trained_model_folder
from .runtime import device as devices

TEXTS_AT_A_TIME = 8192
"""Texts that are tokenized and sorted together, so that memory stays bounded for any length of input."""
TEXTS_TO_ENCODE = 512
"""Texts that the tokenizer gets at once, whose results take a hundred times the memory of the ids."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of a text.

    Attributes:
        text: the text.
        shown: what it says, for people.
        facts: what it says, by name, as plain JSON.
    """

    text: str
    shown: str
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        return {"text": self.text, **self.facts}

    def to_line(self) -> str:
        """The prediction, a tab, the text."""
        return f"{self.shown}\t{self.text}"


Input = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or the words of a text."""

Output = npt.NDArray[np.float32]


class Predictor:
    """A trained classifier with its tokenizer.

    Args:
        name: a run folder, a model folder or a Hub id.
        device: where to compute.
        precision: `fp32`, `bf16` or `fp16`.
        batch_size: texts of a batch.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """

    def __init__(
        self, name: str, device: str | torch.device = "cpu", precision: str = "fp32", batch_size: int = 32
    ) -> None:
        self.device, self.precision, self.batch_size = torch.device(device), precision, batch_size
        self.model, self.tokenizer, self.pair = load_text_classifier(trained_model_folder(name), self.device)
        self.max_length = int(self.tokenizer.truncation["max_length"])
        self.left = self.tokenizer.truncation["direction"] == "left"
        HalfWeights(self.model, precision).use()
        self.name, self.kind = name, kind_of(self.model.config)
        self.vocabulary = vocabulary_size(self.model)
        self.labels = label_names(self.model.config)
        self.typed = takes_token_types(self.model.config)

    def __call__(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """A prediction for each text, in order; reads at most `TEXTS_AT_A_TIME` texts ahead.

        A model of pairs takes both in one text, separated by a tab; one of words splits texts at white space.

        Raises:
            InputError: the model takes pairs, and a text does not hold exactly one tab; or as for `outputs`.
        """
        source = iter(texts)
        while chunk := list(islice(source, TEXTS_AT_A_TIME)):
            inputs: list[Input] = [_split_pair(text) for text in chunk] if self.pair else [*chunk]
            for text, output in zip(chunk, self.outputs(inputs), strict=True):
                yield self._prediction(text, output)

    def outputs(
        self, inputs: Sequence[Input], progress: Callable[[float], object] = lambda share: None
    ) -> list[Output]:
        """What the model says of some texts, in their order; they are computed from the longest to the shortest.

        Args:
            inputs: a text each, two of them for a model of pairs, or for one of words perhaps a list of words.
            progress: called after each batch with the share of tokens that are computed.

        Returns:
            For each text (C,) probabilities; of a regression (1,) its number; of words (words, 2), the number of the
            most probable class and its probability, not a number for a word the model did not see.

        Raises:
            InputError: the tokenizer cannot encode a text, or gives ids or lengths that the model does not take; or
                outputs are not finite.
        """
        starts = range(0, len(inputs), TEXTS_TO_ENCODE)
        encoded = [row for start in starts for row in self._encode(inputs[start : start + TEXTS_TO_ENCODE])]
        lengths = np.array([len(row.ids) for row in encoded], np.int64)
        order = np.argsort(-lengths, kind="stable")
        outputs: list[Output] = [np.empty(0, np.float32)] * len(encoded)
        done, total = 0, max(1, int(lengths.sum()))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            found = self._batch([encoded[row] for row in rows])
            self._check_finite(found, [inputs[row] for row in rows])
            for row, output in zip(rows, found, strict=True):
                outputs[row] = output if self.kind != TOKENS else _of_words(output, encoded[row].words)
            done += int(lengths[rows].sum())
            progress(done / total)
        return outputs

    def _encode(self, inputs: Sequence[Input]) -> Iterator["_Encoded"]:
        """Without what a tokenizer's own result holds beside the ids, which is a hundred times their size."""
        words = [text.split() if isinstance(text, str) else text for text in inputs] if self.kind == TOKENS else []
        pairs = isinstance(inputs[0], tuple)
        with library_errors(InputError, f"the tokenizer of {self.name} cannot encode these texts, expected UTF-8"):
            if words:
                found = self.tokenizer.encode_batch(words, is_pretokenized=True)  # the fast one gives no words
            else:
                if pairs:
                    self.tokenizer.no_truncation()  # `truncated_pair` does it
                found = self.tokenizer.encode_batch_fast(list(inputs))
        for number, (text, encoding) in enumerate(zip(inputs, found, strict=True)):
            ids, types = encoding.ids, encoding.type_ids
            if pairs:
                ids, types = (part.tolist() for part in truncated_pair(encoding, self.max_length, self.left))
            if len(ids) > self.max_length or max(ids, default=0) >= self.vocabulary:
                raise InputError(
                    f"the tokenizer of {self.name} does not fit its model: the text {text[:60]!r} is {len(ids):,} ids "
                    f"up to {max(ids):,}, expected at most {self.max_length:,} below {self.vocabulary:,}"
                )
            yield _Encoded(
                np.array(ids, np.int64),
                types.count(0) if self.typed and pairs else None,
                _first_tokens(encoding.word_ids, len(words[number])) if words else None,
            )

    def _check_finite(self, output: Output, inputs: Sequence[Input]) -> None:
        """Refuse (B, …) outputs for `inputs` that hold what is not a number."""
        bad = [text for text, numbers in zip(inputs, output, strict=True) if not np.isfinite(numbers).all()]
        if bad:
            more = f" and {len(bad) - 1} more of its batch" * (len(bad) > 1)
            raise InputError(
                f"the outputs of the model {self.name} are not finite for the text {bad[0]!r:.60}{more}; "
                f"pass {'another model' if self.precision == 'fp32' else '--precision fp32, or another model'}"
            )

    def predicted_labels(self, output: Output) -> list[str | None]:
        """The labels that a text's output stands for: the most probable one; of a multi-label model those above a
        half, perhaps none; of words a tag each, None for a word the model did not see; of a regression none."""
        if self.kind == TOKENS:
            return [None if np.isnan(number) else self.labels[int(number)] for number in output[:, 0]]
        if self.kind == "regression":
            return []
        if self.kind == "multi-label":
            return [label for label, probability in zip(self.labels, output, strict=True) if probability > 0.5]
        return [self.labels[int(output.argmax())]]

    def _prediction(self, text: str, output: Output) -> Prediction:
        """Of words a tag each, and its probability; None, shown as -, for a word the model did not see."""
        labels = self.predicted_labels(output)
        if self.kind == TOKENS:
            probabilities = [None if np.isnan(number) else number for number in output[:, 1].tolist()]
            facts = {"words": text.split(), "tags": labels, "probabilities": probabilities}
            return Prediction(text, " ".join(tag or "-" for tag in labels), facts)
        if self.kind == "regression":
            return Prediction(text, f"{output[0]:.6g}", {"value": float(output[0])})
        if self.kind == "multi-label":
            of_labels = dict(zip(self.labels, output.tolist(), strict=True))
            shown = ", ".join(f"{label} {of_labels[label]:.4f}" for label in filter(None, labels))
            return Prediction(text, shown or "none", {"labels": labels, "probabilities": of_labels})
        probability = float(output.max())
        return Prediction(text, f"{labels[0]}\t{probability:.4f}", {"label": labels[0], "probability": probability})

    def _batch(self, rows: list["_Encoded"]) -> Output:
        """(B, C) the outputs for each row: probabilities, or a number; of tokens (B, W, 2), the most probable class
        and its probability."""
        lengths = np.array([len(row.ids) for row in rows])
        width = max(1, int(lengths.max()))
        begins = np.cumsum(lengths) - lengths
        pad = self.model.config.pad_token_id or 0
        flat = np.concatenate([*(row.ids for row in rows), np.array([pad])])  # the pad: never empty
        inputs = {"input_ids": gather_rows(flat, begins, lengths, width, pad)}
        if int(lengths.min()) < width:
            inputs["attention_mask"] = row_mask(lengths, width)
        if rows[0].first_length is not None:
            first = np.array([row.first_length for row in rows])
            inputs["token_type_ids"] = token_types(first, lengths, width, left=False)
        with (
            torch.inference_mode(),
            devices.autocast(self.device, self.precision),
            library_errors(MismatchError, f"the model {self.name} cannot compute a batch of {len(rows)} x {width}"),
        ):
            tensors = {name: torch.from_numpy(np.array(a, np.int64)).to(self.device) for name, a in inputs.items()}
            logits = self.model(**tensors).logits.float()  # (B, C) or (B, W, C)
        if self.kind == "classification":
            logits = logits.softmax(dim=1)
        elif self.kind == "multi-label":
            logits = logits.sigmoid()
        elif self.kind == TOKENS:
            probabilities, classes = logits.softmax(dim=-1).max(dim=-1)  # (B, W)
            logits = torch.stack([classes.float(), probabilities], dim=-1)
        outputs: Output = logits.cpu().numpy()
        return outputs


def _split_pair(text: str) -> tuple[str, str]:
    """The two texts on a line, which holds exactly one tab or is refused."""
    parts = text.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"the text {text[:60]!r} holds {len(parts) - 1} tabs, but the model takes pairs; put one tab between the "
            "first and the second text"
        )
    return parts[0], parts[1]


@dataclass(frozen=True)
class _Encoded:
    """A tokenized text.

    Attributes:
        ids: (tokens,) int64.
        first_length: tokens of the first text of a pair, for a model that tells the two apart; None elsewhere.
        words: (words,) the position of each word's first token, -1 where it has none; None where words do not matter.
    """

    ids: npt.NDArray[np.int64]
    first_length: int | None
    words: npt.NDArray[np.int64] | None


def _first_tokens(word_ids: list[int | None], words: int) -> npt.NDArray[np.int64]:
    first = np.full(words, -1)
    for position, word in reversed(list(enumerate(word_ids))):
        if word is not None:
            first[word] = position
    return first


def _of_words(output: Output, first_tokens: npt.NDArray[np.int64] | None) -> Output:
    """(words, 2) of (W, 2): the output at the first token of each word."""
    assert first_tokens is not None
    found: Output = np.where((first_tokens >= 0)[:, None], output[first_tokens], np.float32(np.nan))
    return found
