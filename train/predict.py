"""Predictions for new texts, batched by length and returned in input order.

Shapes: B rows, W columns, C classes.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cache.errors import InputError, MismatchError
from cache.format.labels import token_types
from cache.reading.padding import gather_rows, row_mask

from . import device as devices
from .models.fit import vocabulary_size
from .models.heads import kind_of, label_names
from .models.library_errors import library_errors
from .models.trained import load_text_classifier
from .run_folder.export import trained_model_folder

TEXTS_AT_A_TIME = 8192
"""Texts that are tokenized and sorted together, so that memory stays bounded for any length of input."""


@dataclass(frozen=True)
class Prediction:
    """A text's most probable label."""

    text: str
    label: str
    probability: float

    def to_json(self) -> dict[str, Any]:
        """Text, label and probability."""
        return asdict(self)

    def to_line(self) -> str:
        """Label, probability and text, separated by tabs."""
        return f"{self.label}\t{self.probability:.4f}\t{self.text}"


@dataclass(frozen=True)
class NumberPrediction:
    """The number that a regression predicts for a text."""

    text: str
    value: float

    def to_json(self) -> dict[str, Any]:
        """Text and value."""
        return asdict(self)

    def to_line(self) -> str:
        """Value and text, separated by a tab."""
        return f"{self.value:.6g}\t{self.text}"


@dataclass(frozen=True)
class SetPrediction:
    """The labels whose probability is above a half, and the probability of each label."""

    text: str
    labels: tuple[str, ...]
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Text, labels and the probability of every label."""
        return asdict(self)

    def to_line(self) -> str:
        """The labels, each with its probability, and the text, separated by a tab."""
        found = ", ".join(f"{label} {self.probabilities[label]:.4f}" for label in self.labels)
        return f"{found or 'none'}\t{self.text}"


@dataclass(frozen=True)
class TagPrediction:
    """The most probable tag of each word of a text, and its probability.

    Both are None for a word the model did not see: it was truncated, or has no token.
    """

    text: str
    words: tuple[str, ...]
    tags: tuple[str | None, ...]
    probabilities: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Text, words, and the tag and probability of each."""
        return asdict(self)

    def to_line(self) -> str:
        """The tags, separated by spaces, - for none, then a tab and the text."""
        return f"{' '.join(tag or '-' for tag in self.tags)}\t{self.text}"


Predicted = Prediction | NumberPrediction | SetPrediction | TagPrediction


class Predictor:
    """A trained classifier with its tokenizer.

    Args:
        name: a run folder, a model folder or a Hub id.
        device: where to compute.
        precision: `fp32` or `bf16`.
        batch_size: texts of a batch.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """

    def __init__(
        self, name: str, device: str | torch.device = "cpu", precision: str = "fp32", batch_size: int = 32
    ) -> None:
        self.device, self.precision, self.batch_size = torch.device(device), precision, batch_size
        trained = load_text_classifier(trained_model_folder(name), self.device)
        self.model, self.tokenizer, self.pair = trained.model, trained.tokenizer, trained.pair
        self.name, self.max_length, self.kind = name, trained.max_length, kind_of(self.model.config)
        self.vocabulary = vocabulary_size(self.model)
        self.typed = self.pair and getattr(self.model.config, "type_vocab_size", 0) > 1

    def __call__(self, texts: Iterable[str]) -> Iterator[Predicted]:
        """A prediction for each text, in order; reads at most `TEXTS_AT_A_TIME` texts ahead.

        A model of pairs takes both in one text, separated by a tab; one of words splits texts at white space.

        Raises:
            InputError: the model takes pairs, and a text does not hold exactly one tab; or the tokenizer cannot encode
                a text, or gives ids or lengths that the model does not take.
        """
        source = iter(texts)
        while chunk := list(islice(source, TEXTS_AT_A_TIME)):
            yield from self._predict(chunk)

    def _predict(self, texts: list[str]) -> Iterator[Predicted]:
        encoded = self._encode(texts)
        order = np.argsort([len(encoding.ids) for encoding in encoded], kind="stable")
        outputs: dict[int, npt.NDArray[np.float32]] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            outputs.update(zip(rows, self._batch([encoded[row] for row in rows]), strict=True))
        names = label_names(self.model.config)
        for row, text in enumerate(texts):
            if self.kind == "token-classification":
                yield self._tags(text, encoded[row].word_ids, outputs[row], names)
            else:
                yield self._prediction(text, outputs[row], names)

    def _encode(self, texts: list[str]) -> list[Any]:
        with library_errors(InputError, f"the tokenizer of {self.name} cannot encode these texts, expected UTF-8"):
            if self.kind == "token-classification":
                words = [text.split() for text in texts]
                encoded = self.tokenizer.encode_batch(words, is_pretokenized=True)  # the fast one gives no words
            else:
                encoded = self.tokenizer.encode_batch_fast([split_pair(text) for text in texts] if self.pair else texts)
        for text, ids in zip(texts, (encoding.ids for encoding in encoded), strict=True):
            if len(ids) > self.max_length or max(ids, default=0) >= self.vocabulary:
                raise InputError(
                    f"the tokenizer of {self.name} does not fit its model: the text {text[:60]!r} is {len(ids):,} ids "
                    f"up to {max(ids):,}, expected at most {self.max_length:,} below {self.vocabulary:,}"
                )
        return list(encoded)

    def _tags(
        self, text: str, word_ids: list[int | None], output: npt.NDArray[np.float32], names: tuple[str, ...]
    ) -> TagPrediction:
        """Each word's tag at its first token; `output` is (W, 2), the class and probability at each column."""
        words = text.split()
        tags: list[str | None] = [None] * len(words)
        probabilities: list[float | None] = [None] * len(words)
        for word, (number, chance) in zip(
            word_ids, output.tolist(), strict=False
        ):  # the columns after them are padding
            if word is not None and tags[word] is None:
                tags[word], probabilities[word] = names[int(number)], chance
        return TagPrediction(text, tuple(words), tuple(tags), tuple(probabilities))

    def _prediction(self, text: str, output: npt.NDArray[np.float32], names: tuple[str, ...]) -> Predicted:
        if self.kind == "regression":
            return NumberPrediction(text, float(output[0]))
        if self.kind == "multi-label":
            probabilities = dict(zip(names, output.tolist(), strict=True))
            return SetPrediction(
                text, tuple(name for name, chance in probabilities.items() if chance > 0.5), probabilities
            )
        best = int(output.argmax())
        return Prediction(text, names[best], float(output[best]))

    def _batch(self, encoded: list[Any]) -> npt.NDArray[np.float32]:
        """(B, C) the outputs for each row: probabilities, or a number; of tokens (B, W, 2), the most probable class
        and its probability."""
        rows = [encoding.ids for encoding in encoded]
        lengths = np.array([len(ids) for ids in rows])
        width = max(1, int(lengths.max()))
        begins = np.cumsum(lengths) - lengths
        pad = self.model.config.pad_token_id or 0
        flat = np.array([number for ids in rows for number in ids] + [pad], np.int64)  # the pad: never empty
        inputs = {"input_ids": gather_rows(flat, begins, lengths, width, pad)}
        if int(lengths.min()) < width:
            inputs["attention_mask"] = row_mask(lengths, width)
        if self.typed:
            first = np.array([encoding.type_ids.count(0) for encoding in encoded])
            inputs["token_type_ids"] = token_types(first, lengths, width, left=False)
        tensors = {name: torch.from_numpy(np.array(a, np.int64)).to(self.device) for name, a in inputs.items()}
        with (
            torch.inference_mode(),
            devices.autocast(self.device, self.precision),
            library_errors(MismatchError, f"the model {self.name} cannot compute a batch of {len(rows)} x {width}"),
        ):
            logits = self.model(**tensors).logits.float()  # (B, C) or (B, W, C)
        if self.kind == "classification":
            logits = logits.softmax(dim=1)
        elif self.kind == "multi-label":
            logits = logits.sigmoid()
        elif self.kind == "token-classification":
            probabilities, classes = logits.softmax(dim=-1).max(dim=-1)  # (B, W)
            logits = torch.stack([classes.float(), probabilities], dim=-1)
        outputs: npt.NDArray[np.float32] = logits.cpu().numpy()
        return outputs


def split_pair(text: str) -> tuple[str, str]:
    """The two texts on a line.

    Raises:
        InputError: the line does not hold exactly one tab.
    """
    parts = text.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"the text {text[:60]!r} holds {len(parts) - 1} tabs, but the model takes pairs; put one tab between the "
            "first and the second text"
        )
    return parts[0], parts[1]


def read_texts(data: bytes, source: str) -> list[str]:
    """The texts in some bytes, one per line.

    Raises:
        InputError: not UTF-8, with the byte's position; or there is no line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8: byte {data[error.start]:#04x} at position {error.start:,}; convert it first"
        ) from None
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{source} holds no text, expected one per line")
    return lines


def read_stdin() -> list[str]:
    """The texts on standard input, one per line.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_texts(sys.stdin.buffer.read(), "stdin")
    except OSError as error:
        raise InputError(f"stdin cannot be read ({error.strerror}); pass texts or --file FILE") from None


def read_file(path: Path) -> list[str]:
    """The texts in a file, one per line.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_texts(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"--file {path} cannot be read ({error.strerror})") from None
