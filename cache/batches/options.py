"""Options of batches: sharing among ranks, padding, device. Loads without torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from ..common.arguments import checked
from ..errors import InputError
from ..plans.shares import ATTENTION_LENGTH

if TYPE_CHECKING:
    import torch

FEEDS = ("auto", "direct", "resident", "streamed")
SIDES = ("right", "left")


class BatchOptions(TypedDict, total=False):
    """Options of `Split.batches`, with the defaults of `DEFAULTS`."""

    device: "str | torch.device"
    """Device of the tensors."""
    rank: int
    """This process's number, 0..world_size-1."""
    world_size: int
    """Number of processes that share each batch."""
    gradient_accumulation_steps: int
    """Micro-batches that a batch is computed in."""
    equal_rows: bool
    """Give all ranks and micro-batches equally many rows, and not equal work: for a loop that takes the mean of their
    mean losses instead of weighing them by `Batch.loss_weight`."""
    attention_length: int
    """For equal work: the length of a row, tokens, at which attention takes as many operations as linear layers do, 2 x
    hidden width + intermediate width of the model."""
    start: int
    """Steps to skip at the beginning, at no cost."""
    pad_to_multiple_of: int
    """Round widths up, as far as the cache's max length."""
    always_mask: bool
    """Give a mask even where no row needs one."""
    padding_side: str | None
    """"right" or "left"; None: what the tokenizer asks for. A model that reads the first token, as BERT does, or
    numbers positions from the left needs "right"."""
    packed: bool
    """Give the rows of a micro-batch end to end, as one row without padding; the options about padding then say
    nothing. The model must keep the rows apart by `Batch.cu_seq_lens`."""
    feed: str
    """How tokens get to the device, one of `FEEDS`; all give the same tensors."""


class PaddingOptions(NamedTuple):
    """How batches are padded.

    Attributes:
        always_mask: give a mask even where no row needs one.
        left: pad on the left.
        packed: do not pad, but lay the rows end to end.
    """

    always_mask: bool
    left: bool
    packed: bool


DEFAULTS = BatchOptions(
    device="cpu",
    rank=0,
    world_size=1,
    gradient_accumulation_steps=1,
    equal_rows=False,
    attention_length=ATTENTION_LENGTH,
    start=0,
    pad_to_multiple_of=1,
    always_mask=False,
    padding_side=None,
    packed=False,
    feed="auto",
)


KINDS = {name: type(value) for name, value in DEFAULTS.items() if isinstance(value, int)}
"""The types of whole numbers and of yes or no."""


def resolve(options: BatchOptions, padding_side: str, without: Sequence[str] = ()) -> BatchOptions:
    """The options with none left out, but for those that are settled otherwise; `padding_side` is the tokenizer's.

    Raises:
        InputError: an option is unknown, of a wrong type or out of range.
    """
    known = [name for name in DEFAULTS if name not in without]
    unknown = options.keys() - set(known)
    if unknown:
        raise InputError(
            f"there is no option {', '.join(sorted(unknown))}; there are spec (such as PlanSpec('tight', 32)), "
            f"{', '.join(known)}"
        )
    found = BatchOptions(**{**DEFAULTS, **checked(options, KINDS)})  # type: ignore[typeddict-item]
    if not 0 <= found["rank"] < found["world_size"]:
        raise InputError(
            f"rank {found['rank']} is not one of {found['world_size']} ranks, 0..{found['world_size'] - 1}"
        )
    for name in ("gradient_accumulation_steps", "attention_length", "pad_to_multiple_of"):
        if found[name] < 1:
            raise InputError(f"{name} is {found[name]}, expected 1 or more")
    if found["feed"] not in FEEDS:
        raise InputError(f"feed {found['feed']!r} is not one of {', '.join(FEEDS)}")
    found["padding_side"] = found["padding_side"] or padding_side
    if found["padding_side"] not in SIDES:
        raise InputError(f"padding_side {found['padding_side']!r} is neither right nor left")
    return found
