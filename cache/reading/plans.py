"""Finding the plans that are stored in a cache."""

import contextlib

from ..common.files import storage_errors
from ..common.folder import Folder
from ..format.plan_file import PLANS, PlanOwner, StoredPlan, read_plan
from ..plans.spec import PlanSpec


def stored_plans(cache: Folder, owner: PlanOwner) -> dict[PlanSpec, StoredPlan]:
    """The complete plans of a split, in the folder of its cache.

    Raises:
        MismatchError: a plan belongs to another cache or split.
        CorruptCacheError, FormatVersionError: a plan is damaged, or a link.
        StorageError: the system does not let one be read.
    """
    found = {}
    with (
        storage_errors(cache.path / owner.split / PLANS, "read"),
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        cache.folder(f"{owner.split}/{PLANS}") as plans,
    ):
        for name in plans.names():
            if name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), plans.folder(name) as folder:
                plan = read_plan(folder, owner)
                plan.check_headers(folder)
                found[plan.spec] = plan
    return found


def plan_folder(cache: Folder, split: str, plan_id: str) -> Folder:
    """Open the folder of a plan.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        CorruptCacheError: it is a link.
    """
    return cache.folder(f"{split}/{PLANS}/{plan_id}")
