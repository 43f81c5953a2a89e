"""The plans of a split: those that are stored in its cache, and those that are drawn from the lengths of its rows."""

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from ..common.arrays import Array
from ..common.files import storage_errors
from ..common.folder import Folder
from ..errors import CacheError, InputError, StorageError
from ..format.manifest import Manifest
from ..format.plan_file import PLANS, PlanOwner, StoredPlan, read_plan
from ..plans.costs import PlanCost, plan_cost
from ..plans.spec import STRATEGIES, PlanSpec
from ..plans.strategies import EpochPlan, plan_epoch
from ..writing.plans import store_plan
from .in_place import in_place
from .manifest import naming_remedy


class PlannedSplit:
    """What is known of one split of a cache without its shards: the lengths of its rows, and its plans.

    Attributes:
        folder: the path of the cache's folder.
        name: "train", "test", …
        info: what the manifest says of the split.
        max_length: of the cache, tokens.
        fingerprint: of the cache.
    """

    def __init__(self, files: Folder, manifest: Manifest, name: str) -> None:
        self._files, self.folder = files, files.path
        self.name, self.info = name, manifest.splits[name]
        self.max_length, self.fingerprint = manifest.max_length, manifest.fingerprint
        self._owner = PlanOwner(self.fingerprint, name, self.info.rows)
        self._built_from, self._built_plan = manifest.source.get("argument"), manifest.plan
        self._plans = weakref.WeakValueDictionary[tuple[PlanSpec, int], EpochPlan]()
        self._costs: dict[PlanSpec, PlanCost] = {}

    def __len__(self) -> int:
        return self.info.rows

    @functools.cached_property
    def lengths(self) -> Array:
        """(rows,) int32, tokens of each row, ascending; read-only."""
        histogram = np.array(self.info.length_histogram, np.int64)
        try:
            lengths = np.repeat(np.arange(len(histogram), dtype=np.int32), histogram)
        except MemoryError:
            raise StorageError(f"{self.folder}: {len(self):,} rows do not fit in this machine's memory") from None
        lengths.flags.writeable = False
        return lengths

    def stored_plans(self) -> dict[PlanSpec, StoredPlan]:
        """The complete plans that are stored in the cache.

        Raises:
            MismatchError: a plan belongs to another cache or split.
            CorruptCacheError, FormatVersionError: a plan is damaged, or a link.
            StorageError: the system does not let one be read.
        """
        found = {}
        with (
            naming_remedy(self._built_from),
            storage_errors(self.folder / self.name / PLANS, "read"),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._files.folder(f"{self.name}/{PLANS}") as plans,
        ):
            for name in plans.names():
                if name.startswith("."):
                    continue
                with contextlib.suppress(FileNotFoundError, NotADirectoryError), plans.folder(name) as folder:
                    plan = read_plan(folder, self._owner)
                    plan.check_headers(folder)
                    found[plan.spec] = plan
        return found

    def check_plans(self) -> None:
        """Check that every epoch of every stored plan is a plan of this split's rows.

        Raises:
            CorruptCacheError: one is not.
        """
        for spec, plan in self.stored_plans().items():
            with naming_remedy(self._built_from), self._files.folder(f"{self.name}/{PLANS}/{spec.id}") as folder:
                for epoch in range(len(plan.epochs)):
                    plan.load(folder, epoch, self.lengths, self.max_length)

    def default_spec(self) -> PlanSpec:
        """The plan settings the build was asked for."""
        return self._built_plan

    def chosen_spec(self, given: PlanSpec | str | None) -> PlanSpec:
        """The plan settings that a caller gave; for the name of a strategy and for None those the build was asked for,
        with that strategy.

        Raises:
            InputError: there is no such strategy, or it is of another type.
        """
        built = self.default_spec()
        if isinstance(given, str):
            return built.of_strategy(given)
        if given is not None and not isinstance(given, PlanSpec):
            raise InputError(f"spec is {given!r}, expected a PlanSpec or one of {', '.join(STRATEGIES)}")
        return given or built

    def plan(self, spec: PlanSpec, epoch: int) -> EpochPlan:
        """The plan of one epoch: read where it is stored, drawn where it is not. Both give the same batches.

        As long as a plan is referenced somewhere, asking for it again gives the same object.

        Raises:
            CorruptCacheError: a stored plan is damaged.
            InputError: the epoch is negative.
        """
        plan = self._plans.get((spec, epoch))
        if plan is None:
            stored = self._stored(spec, epoch) if epoch >= 0 else None
            plan = self._plans[spec, epoch] = stored or self.draw(spec, epoch)
        return plan

    def _stored(self, spec: PlanSpec, epoch: int) -> EpochPlan | None:
        try:
            with (
                storage_errors(self.folder / self.name / PLANS / spec.id, "read"),
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                naming_remedy(self._built_from),
                self._files.folder(f"{self.name}/{PLANS}/{spec.id}") as folder,
            ):
                plan = read_plan(folder, self._owner)
                return plan.load(folder, epoch, self.lengths, self.max_length) if epoch < len(plan.epochs) else None
        except CacheError:
            if self._files.is_at(self.folder):
                raise
        return None  # not stored, or of a cache that was replaced and is being removed

    def draw(self, spec: PlanSpec, epoch: int) -> EpochPlan:
        """Draw the plan of one epoch, whether or not it is stored."""
        return plan_epoch(self.lengths, spec, epoch, self.max_length)

    def cost(self, spec: PlanSpec) -> PlanCost:
        """What the first epoch of a plan costs; counted when first asked for.

        Raises:
            CorruptCacheError: the stored plan is damaged.
        """
        if spec not in self._costs:
            self._costs[spec] = plan_cost(self.plan(spec, 0), self.lengths)
        return self._costs[spec]

    def keep_plan(
        self, spec: PlanSpec, epochs: int, progress: Callable[[int], Any] = lambda epoch: None
    ) -> tuple[int, int]:
        """Make sure that a plan of at least so many epochs is stored.

        Args:
            spec: its settings.
            epochs: how many epochs are wanted.
            progress: called with the number of each epoch before it is drawn.

        Returns:
            Epochs that were there, and epochs added.

        Raises:
            StorageError: the cache's folder cannot be written.
        """

        def draw(epoch: int) -> EpochPlan:
            progress(epoch)
            return self.draw(spec, epoch)

        with in_place(self._files, "store plans in it"):
            stored = self.stored_plans().get(spec)
            there = len(stored.epochs) if stored else 0
            if there < epochs:
                store_plan(self._files, self._owner, spec, epochs, draw)
        return there, max(0, epochs - there)

    def try_keep_plan(self, spec: PlanSpec, epochs: int) -> bool:
        """`keep_plan`, but False where the cache is read-only; its plans are then drawn in memory."""
        try:
            self.keep_plan(spec, epochs)
        except StorageError:
            return False
        return True
