"""The classes of a cache among those of a trained model, matched by name.

A cache may hold only some of the model's classes, or number them in another order: the test rows of one customer, a
corpus whose labels were first seen in another order. Labels are mapped to the model's numbers, so that losses and
scores are those of the model, and a class that the cache lacks counts as wrong where it is predicted.

Shapes: B rows, W columns, C classes of the model, K of the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from cache.console.text import listed
from cache.errors import MismatchError
from cache.format.tasks import IGNORED, Task

from .heads import is_masked, label_names


@dataclass(frozen=True)
class ClassMap:
    """Maps the labels of a cache to a model's.

    Attributes:
        task: of the cache, with the model's classes.
        numbers: (K,) int64, the model's number of each class; None where the labels stay as they are.
    """

    task: Task
    numbers: torch.Tensor | None

    def __call__(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels of a batch, (B,), (B, W) or (B, K), as the model numbers them: (B,), (B, W) or (B, C)."""
        if self.numbers is None:
            return labels
        if self.task.kind == "multi-label":
            wide = labels.new_zeros(len(labels), len(self.task.label_names))
            return wide.index_copy(1, self.numbers, labels)
        return self.numbers[labels.clamp(min=0)].where(labels != IGNORED, IGNORED)


def map_classes(config: PretrainedConfig, task: Task, device: torch.device) -> ClassMap:
    """Match the classes of a cache's task with those of a trained classifier, by their names: see `positions_of`.

    Where the model has no names of its own but transformers' LABEL_0, LABEL_1, …, as many classes as the cache has are
    taken to be the same.

    Raises:
        MismatchError: the cache has a class that the model lacks; each is named.
    """
    names, wanted = label_names(config), task.label_names
    if not wanted or names == wanted:
        return ClassMap(task, None)
    positions = positions_of(wanted, names)
    missing = [name for name, position in zip(wanted, positions, strict=True) if position is None]
    if not missing:
        return ClassMap(replace(task, label_names=names), torch.tensor(positions, device=device))
    if len(names) == len(wanted) and are_unnamed(names):
        return ClassMap(task, None)
    lacking, known = (listed([*map(repr, some)], 8) for some in (missing, names))
    raise MismatchError(
        f"the model has no class {lacking}, which the cache has; the model's classes are {known}; "
        "evaluate it on a cache of these classes, all or some of them, in any order"
    )


def positions_of(wanted: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Where each wanted class is among a model's, None where it is not; NEGATIVE is negative, as long as case tells no
    two classes apart."""
    exact = [names.index(name) if name in names else None for name in wanted]
    folded, sought = ([name.casefold() for name in some] for some in (names, wanted))
    if None not in exact or len({*folded}) < len(folded) or len({*sought}) < len(sought):
        return exact
    return [folded.index(name) if name in folded else None for name in sought]


def are_unnamed(names: Sequence[str]) -> bool:
    """Whether a model's classes have no names but transformers' own."""
    return all(name.startswith("LABEL_") for name in names)


def renumber_classes(model: PreTrainedModel, names: Sequence[str], wanted: Sequence[str]) -> str:
    """Give a classifier, whose last matrix has a row for each of its classes `names`, the numbers of the cache's,
    `wanted`, if these are the same ones.

    Returns:
        What was done, for the report; of other classes, which the head is trained on for, what they were.
    """
    if names == wanted or are_unnamed(names):
        return "the model's own"
    order = positions_of(wanted, names)
    if None in order:
        return f"the model's own, trained for {listed([*map(repr, names)], 8)}; --new-head makes a new one"
    if order == [*range(len(names))]:
        return "the model's own"
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == len(names)]
    with torch.no_grad():
        for parameter in layers[-1].parameters():  # (C, H), (C,)
            parameter.copy_(parameter[order])
    return "the model's own, its classes in the order of the cache's"


def scored_classes(config: PretrainedConfig, task: Task) -> tuple[str, ...]:
    """The names of the classes that a model's scores on a cache are of."""
    return task.label_names if is_masked(config) else map_classes(config, task, torch.device("cpu")).task.label_names
