"""Where the tasks of a build run: in this process, one after the other, or elsewhere.

A task is a function of what all tasks share and of its own part of the work. It keeps nothing between calls, so that
it may run anywhere, in any order, and once more where it was cut off: the cache is the same to the byte.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..columns import Stream, in_split
from .encoding import EncodedPart
from .parts import Part, Report, Survey

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor:
    """Runs tasks in this process, one after the other, a source split as a single one; a subclass, elsewhere.

    Attributes:
        in_place: whether tasks run in this process, one after the other, and so may share what they know.
    """

    in_place = True

    def parts(self, stream: Stream) -> list[Stream]:
        """A source split in parts, in order, each of which is a task."""
        return [stream]

    def run(
        self, task: Callable[[Any, Item, Report], Result], shared: Any, items: Iterable[Item], report: Report
    ) -> Iterator[Result]:
        """The results of a task for some items, in their order.

        Args:
            task: called with what is shared, an item, and `report`.
            shared: by all of them.
            items: one for each task.
            report: hears of bytes and tokens that are done, sooner or later.

        Raises:
            LengthwiseError: as the task raises it, of the first item for which it does.
        """
        return (task(shared, item, report) for item in items)


Found = TypeVar("Found", Survey, EncodedPart)


def run_parts(
    executor: Executor, task: Callable[[Any, Part, Report], Found], shared: Any, parts: Sequence[Part], report: Report
) -> Iterator[Found]:
    """Run a task for the parts of source splits, in order; errors name rows by their numbers in the source split."""
    results = executor.run(task, shared, parts, report)
    split, first_row = "", 0
    for part in parts:
        if part.split != split:
            split, first_row = part.split, 0
        with in_split(split, first_row):
            found = next(results)
        first_row += found.rows
        yield found
