"""Plans on disk: a folder per plan, a file per epoch, `plan.json` written last.

    train/plans/smart-b16-s0/plan.json, epoch-0000.safetensors …

An epoch is drawn, written and read by itself, so that a plan of any number of epochs needs the memory of one.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common.arrays import Array
from ..common.folder import Folder
from ..errors import CorruptCacheError, FormatVersionError, InputError, MismatchError
from ..plans.spec import STRATEGIES, PlanSpec
from ..plans.strategies import EpochPlan
from .checksummed_json import MAX_COUNT, Fields, Json, seal, unseal
from .files import FileInfo, file_entry, open_listed
from .safetensors_file import MappedFile, check_header
from .safetensors_writer import Shapes

PLANS = "plans"
"""The folder of a split that holds its plans."""
PLAN_FORMAT = "lengthwise-plan"
PLAN_VERSION = 1
PLAN_FILE = "plan.json"
MAX_PLAN_BYTES = 16 * 1024 * 1024
PLAN_ID = re.compile(rf"({'|'.join(STRATEGIES)})-[bt]\d+-s\d+")
"""What the folder of a plan is called: `PlanSpec.id`."""


class PlanOwner(NamedTuple):
    """What a plan was drawn for.

    Attributes:
        cache: its fingerprint.
        split: the name of the split.
        rows: of the split.
    """

    cache: str
    split: str
    rows: int


@dataclass(frozen=True)
class EpochInfo(FileInfo):
    """The file of one epoch."""

    batches: int
    padded_tokens: int


@dataclass(frozen=True)
class StoredPlan:
    """A plan as its `plan.json` describes it.

    Attributes:
        spec: the settings it was drawn from.
        rows: rows of its split.
        epochs: its files, epoch 0 first.
    """

    spec: PlanSpec
    rows: int
    epochs: tuple[EpochInfo, ...]

    def load(self, folder: Folder, epoch: int, lengths: Array, max_length: int) -> EpochPlan:
        """Read one epoch's plan, and check that it is a plan of the split's rows, which have these `lengths` (rows,).

        Raises:
            CorruptCacheError: a row is missing, out of range or there twice, or a batch does not fit its width.
        """
        info = self.epochs[epoch]
        with _naming_folder(folder):
            mapped = MappedFile(folder, info.file, self._tensors(info), info.bytes).tensors
            plan = EpochPlan(**{name: array.copy() for name, array in mapped.items()})  # a cut file cannot hurt a copy
            wrong = _fault(plan, lengths) or _unfit(plan, self.spec, lengths, max_length)
            if not wrong and plan.padded_tokens != info.padded_tokens:
                wrong = f"holds {plan.padded_tokens:,} padded tokens, plan.json says {info.padded_tokens:,}"
            if wrong:
                raise CorruptCacheError(f"{folder.path / info.file}: {wrong}")
        return plan

    def check_headers(self, folder: Folder) -> None:
        """Check that every epoch's file is in the plan's folder, with the size and the header it should have.

        Raises:
            CorruptCacheError: one is not.
        """
        for info in self.epochs:
            with _naming_folder(folder), open_listed(folder, info.file, info.bytes) as file:
                check_header(file, info.bytes, self._tensors(info), folder.path / info.file)

    def _tensors(self, info: EpochInfo) -> Shapes:
        return {
            "rows": ("U32" if self.rows <= 1 << 32 else "I64", (self.rows,)),
            "batch_offsets": ("I64", (info.batches + 1,)),
            "widths": ("I32", (info.batches,)),
        }


def plan_remedy(folder: Path) -> str:
    """The end of a message about a damaged plan, and the command to type."""
    return f"{PLAN_REMEDY}rm -r {shlex.quote(str(folder))}"


PLAN_REMEDY = "; the plan is drawn again once its folder is removed: "


@contextlib.contextmanager
def _naming_folder(folder: Folder) -> Iterator[None]:
    """Within it, the message about a plan that cannot be read ends with what to do where only that is damaged."""
    try:
        yield
    except (CorruptCacheError, FormatVersionError) as error:
        raise type(error)(f"{error}{plan_remedy(folder.path)}") from None


def _fault(plan: EpochPlan, lengths: Array) -> str:
    """Why a plan does not hold each row once, in batches of ascending rows; empty if it does."""
    rows, offsets = plan.rows, plan.batch_offsets
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(lengths):
        return f"names a row outside 0..{len(lengths) - 1}"
    seen = np.zeros(len(lengths), bool)
    seen[rows] = True
    if not seen.all():
        return f"leaves out row {int(np.argmin(seen)):,}"
    if offsets[0] != 0 or offsets[-1] != len(rows) or np.any(offsets[1:] <= offsets[:-1]):
        return "its batches do not follow one another"
    ascends = rows[1:] > rows[:-1]
    ascends[offsets[1:-1] - 1] = True
    if not ascends.all():
        return "the rows of a batch do not ascend"
    return ""


def _unfit(plan: EpochPlan, spec: PlanSpec, lengths: Array, max_length: int) -> str:
    """Why the widths or sizes of a plan's batches are not what its settings ask for; empty if they are."""
    if not len(plan):
        return ""
    longest = lengths[plan.rows[plan.batch_offsets[1:] - 1]]
    if not np.array_equal(plan.widths, np.full_like(longest, max_length) if spec.strategy == "fixed" else longest):
        return "a batch's width does not fit its rows"
    if spec.max_tokens is None:
        most, limit = int(plan.sizes.max()), spec.batch_size or 0
    else:
        most, limit = int((plan.sizes * plan.widths).max()), spec.max_tokens
    return f"a batch of {most:,} passes the plan's limit of {limit:,}" if most > limit else ""


def read_plan(folder: Folder, owner: PlanOwner) -> StoredPlan:
    """Read the plan.json in a plan's folder; see `PlannedSplit.stored_plans` for what it raises.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder.path / PLAN_FILE
    with _naming_folder(folder):
        return parse_plan(folder.read(PLAN_FILE, MAX_PLAN_BYTES), path, owner)


def parse_plan(data: bytes, path: Path, owner: PlanOwner) -> StoredPlan:
    """Parse the content of a plan.json; see `PlannedSplit.stored_plans` for what it raises. The folder in
    its path has the plan's name."""
    raw = unseal(data, path, PLAN_FORMAT, PLAN_VERSION)
    fields = Fields(raw, path)
    found = PlanOwner(fields.digest("cache"), fields.name("split"), fields.integer("rows", 0, MAX_COUNT))
    if found != owner:
        raise MismatchError(
            f"{path}: this plan was drawn for {found.rows:,} rows of split {found.split!r} of the cache "
            f"{found.cache[:12]}, not for {owner.rows:,} rows of {owner.split!r} of {owner.cache[:12]}; delete "
            f"{path.parent} and run `prep plan` again"
        )
    try:
        settings: Json = {name: raw.get(name) for name in ("strategy", "batch_size", "max_tokens", "seed")}
        spec = PlanSpec(**settings)
    except (InputError, TypeError) as error:
        raise CorruptCacheError(f"{path}: {error}") from None
    if path.parent.name != spec.id:
        raise CorruptCacheError(f"{path}: holds the plan {spec.id}, not {path.parent.name}")
    epochs = tuple(_epoch(item, epoch_name(epoch), owner.rows) for epoch, item in enumerate(fields.objects("epochs")))
    return StoredPlan(spec, owner.rows, epochs)


def _epoch(fields: Fields, name: str, rows: int) -> EpochInfo:
    return EpochInfo(
        **file_entry(fields, name, lambda v: v == name),
        batches=fields.integer("batches", 0, rows),
        padded_tokens=fields.integer("padded_tokens", 0, MAX_COUNT),
    )


def plan_json(plan: StoredPlan, owner: PlanOwner) -> bytes:
    """The content of the plan.json of a split's plan."""
    epochs = [asdict(info) for info in plan.epochs]
    head = {"format": PLAN_FORMAT, "version": PLAN_VERSION, **owner._asdict()}
    return seal({**head, **asdict(plan.spec), "epochs": epochs})


def epoch_name(epoch: int) -> str:
    """The file of one epoch."""
    return f"epoch-{epoch:04d}.safetensors"
