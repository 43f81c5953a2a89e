"""Labels for new texts, in input order although they are batched by length.

Shapes: B rows, W columns, C classes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from cache.errors import InputError
from cache.padding import gather_rows, row_mask

from . import device as devices
from .finished import finished_model, load_classifier, longest_text, pads_left
from .model import label_names

TEXTS_AT_A_TIME = 8192
"""Texts that are tokenized and sorted together: memory stays bounded however long the input is."""


@dataclass(frozen=True)
class Prediction:
    """A text's most probable label."""

    text: str
    label: str
    probability: float


class Predictor:
    """A trained classifier with its tokenizer.

    Args:
        name: a run, a model folder or a Hub id.
        device: where to compute.
        precision: `fp32` or `bf16`.
        batch_size: texts of a batch.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """

    def __init__(
        self, name: str, device: str | torch.device = "cpu", precision: str = "fp32", batch_size: int = 32
    ) -> None:
        from tokenizers import Tokenizer

        folder = finished_model(name)
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"{folder} holds no tokenizer.json, expected one beside the model")
        self.device, self.precision, self.batch_size = torch.device(device), precision, batch_size
        self.model: PreTrainedModel = load_classifier(folder, self.device)
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(longest_text(folder))
        self.left = pads_left(folder)

    def __call__(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """A prediction for each text, in order; reads ahead some thousand texts at most."""
        source = iter(texts)
        while chunk := list(islice(source, TEXTS_AT_A_TIME)):
            yield from self._predict(chunk)

    def _predict(self, texts: list[str]) -> Iterator[Prediction]:
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        lengths = np.array([len(ids) for ids in encoded])
        order = np.argsort(lengths, kind="stable")
        best: list[tuple[int, float]] = [(0, 0.0)] * len(texts)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            for row, result in zip(rows, self._batch([encoded[row] for row in rows]), strict=True):
                best[row] = result
        names = label_names(self.model.config)
        for text, (label, probability) in zip(texts, best, strict=True):
            yield Prediction(text, names[label], probability)

    def _batch(self, rows: list[list[int]]) -> list[tuple[int, float]]:
        """The most probable class of each row of a batch, and its probability."""
        lengths = np.array([len(ids) for ids in rows])
        width = max(1, int(lengths.max()))
        begins = np.cumsum(lengths) - lengths
        pad = self.model.config.pad_token_id or 0
        flat = np.array([number for ids in rows for number in ids] + [pad], np.int64)  # the pad: never empty
        inputs = {"input_ids": gather_rows(flat, begins, lengths, width, pad, self.left)}
        if int(lengths.min()) < width:
            inputs["attention_mask"] = row_mask(lengths, width, self.left)
        tensors = {name: torch.from_numpy(np.array(a, np.int64)).to(self.device) for name, a in inputs.items()}
        with torch.inference_mode(), devices.autocast(self.device, self.precision):
            chances = self.model(**tensors).logits.float().softmax(dim=1)  # (B, C)
        probability, label = chances.max(dim=1)
        return list(zip(label.tolist(), probability.tolist(), strict=True))


def read_texts(data: bytes, source: str) -> list[str]:
    """One text a line.

    Raises:
        InputError: not UTF-8, with the byte's position; or no line at all.
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
        raise InputError(f"{source} holds no text, expected one a line")
    return lines


def read_file(path: Path) -> list[str]:
    """The texts in a file, one a line.

    Raises:
        InputError: it cannot be read as such.
    """
    try:
        return read_texts(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"--file {path} cannot be read ({error.strerror})") from None
