"""Scores of tagged words: entities found, as seqeval counts them by default (Nakayama 2018), and tokens that are right.

A tag is a letter that says where in an entity a word stands, B, I, E, S or O, and behind a dash its type: `B-PER`.
seqeval reads other tags the same way, `NN` as letter N of type N, and forgives sequences that the scheme forbids: an
`I-PER` after `O` begins an entity. Whether an entity begins or ends between two words follows from their two tags
alone, so that a whole batch is read at once, on the device. An entity is found if its type, first and last word are.
Rows are read by themselves; among tags such as `.` seqeval may begin an entity in the sentence before.

Shapes: B rows, W columns, K = W + 2: a word outside of entities stands before and behind each row. M types.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cache.format.tasks import IGNORED

from .base import CountedScores, Metric, f1_score

LETTERS = "BIESO."
ENDS = frozenset(
    {"BB", "BS", "BO", "IB", "IS", "IO", *(letter + after for letter in "ES" for after in (*LETTERS, "?"))}
)
"""Letters of two neighbours between which an entity ends, whatever their types; ? is any other letter."""
STARTS = frozenset({*(before + letter for letter in "BS" for before in (*LETTERS, "?"))}) | {
    "EE", "EI", "SE", "SI", "OE", "OI"
}  # fmt: skip
"""Likewise where one begins."""


def marks_entities(tags: Sequence[str]) -> bool:
    """Whether some tags say where entities are, and are not words' own classes, such as parts of speech: one of them
    stands for words outside of entities, or is a letter and a type."""
    return any(tag == "O" or (tag[:1] in "BIES" and tag[1:2] == "-" and tag[2:]) for tag in tags)


def read_tag(tag: str) -> tuple[str, str]:
    """A tag's letter, ? for any that is none of `LETTERS`, and its type, _ where it has none."""
    return tag[0] if tag[0] in LETTERS else "?", tag[1:].split("-", maxsplit=1)[-1] or "_"


@dataclass(frozen=True)
class EntityScores(CountedScores):
    """What a token classifier did on a split, its entities counted by type.

    Attributes:
        types: of entities.
        right: labelled tokens, the first of each word, whose class was found.
        tokens: all labelled tokens.
    """

    types: tuple[str, ...]
    right: int
    tokens: int

    @property
    def targets(self) -> int:
        """Labelled tokens."""
        return self.tokens

    @property
    def accuracy(self) -> float:
        """Share of labelled tokens whose class was found."""
        return self.right / self.tokens if self.tokens else 0.0

    def scores(self) -> dict[str, float]:
        precision, recall, f1 = scores_of(*self.sums)
        entities = {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}
        return {**entities, "token_accuracy": self.accuracy}

    def to_json(self) -> dict[str, Any]:
        names = ("correct", "predicted", "actual")
        types = {name: dict(zip(names, counts, strict=True)) for name, counts in self._present()}
        return {**self.summary(), "tokens": self.tokens, "types": types}

    def lines(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        precision, recall, f1 = scores_of(*self.sums)
        yield "F1", f"{f1:.4f} (of entities: precision {precision:.4f}, recall {recall:.4f})"
        yield "accuracy", f"{self.accuracy:.4f} ({self.right:,} of {self.tokens:,} labelled tokens)"
        for name, (correct, predicted, actual) in self._present()[:20]:
            counts = f"{actual:,} entities, {correct:,} of them found, {predicted:,} found in all"
            yield "", f"{name}: F1 {f1_score(correct, predicted, actual):.4f}, {counts}"

    def _present(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Name and counts of the types that occur or were found."""
        return [(name, counts) for name, counts in zip(self.types, self.counts, strict=True) if any(counts)]


def scores_of(correct: int, predicted: int, actual: int) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where there is nothing to divide by."""
    return correct / max(predicted, 1), correct / max(actual, 1), f1_score(correct, predicted, actual)


class EntityMetric(Metric):
    """Counts of labelled tokens and of entities; the tags are `names`, class 0 first."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        read = [read_tag(name) for name in (*names, "O")]  # the last is outside of rows
        self.types = tuple(sorted({kind for _, kind in read}))
        super().__init__(device, (3, len(self.types)), (2,))  # entities: correct, predicted, actual; tokens: right, all
        letters = (*LETTERS, "?")
        self.letter = torch.tensor([letters.index(letter) for letter, _ in read], device=device)  # (C + 1,)
        self.kind = torch.tensor([self.types.index(kind) for _, kind in read], device=device)
        self.ends, self.starts = (
            torch.tensor([[one + other in pairs for other in letters] for one in letters], device=device)
            for pairs in (ENDS, STARTS)
        )  # (7, 7) by the letters before and after
        self.within = torch.tensor([letter not in "O." for letter in letters], device=device)

    def update(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        found, labelled = logits.argmax(dim=-1), labels != IGNORED  # (B, W)
        self.counts[1] += torch.stack([(labelled & (found == labels)).sum(), labelled.sum()])
        outside = len(self.letter) - 1
        labelled, found, actual = (
            torch.nn.functional.pad(part, (1, 1), value=value)
            for part, value in ((labelled, True), (found, outside), (labels.where(labelled, outside), outside))
        )  # (B, K)
        before = shifted(last_true(labelled))
        (ended, kind, begin), (ended_too, kind_too, begin_too) = (
            self._entities(tags, labelled, before) for tags in (found, actual)
        )
        same = ended & ended_too & (kind == kind_too) & (begin == begin_too)
        for row, kinds, entities in ((0, kind, same), (1, kind, ended), (2, kind_too, ended_too)):
            self.counts[0][row].index_add_(0, kinds.flatten(), entities.flatten().long())

    def _entities(
        self, tags: torch.Tensor, labelled: torch.Tensor, before: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, K) each: whether an entity ended before a word, its type, the column of its first word."""
        tags_before = tags.gather(1, before)
        letter, letter_before = self.letter[tags], self.letter[tags_before]
        kind, kind_before = self.kind[tags], self.kind[tags_before]
        ended = self.ends[letter_before, letter] | (self.within[letter_before] & (kind != kind_before))
        started = self.starts[letter_before, letter] | (self.within[letter] & (kind != kind_before))
        return ended & labelled, kind_before, shifted(last_true(started & labelled))

    def compute(self, rows: int, loss: float) -> EntityScores:
        (correct, predicted, actual), tokens = (counts.tolist() for counts in self.counts)
        return EntityScores(rows, loss, correct, predicted, actual, self.types, *tokens)


def last_true(mask: torch.Tensor) -> torch.Tensor:
    """(B, K) the last column up to each in which `mask` (B, K) is true; 0 before the first."""
    columns = torch.arange(mask.shape[1], device=mask.device)
    return columns.where(mask, 0).cummax(dim=1).values


def shifted(columns: torch.Tensor) -> torch.Tensor:
    """Each row (B, K) moved a column to the right, 0 in front."""
    return torch.nn.functional.pad(columns[:, :-1], (1, 0))
