"""Finding the plans that are stored in a cache."""

import contextlib
from collections.abc import Iterator

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
    with storage_errors(cache.path / owner.split / PLANS, "read"):
        for name in _names(cache, owner.split):
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                plan_folder(cache, owner.split, name) as folder,
            ):
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


def _names(cache: Folder, split: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), cache.folder(f"{split}/{PLANS}") as plans:
        yield from (name for name in plans.names() if not name.startswith("."))
