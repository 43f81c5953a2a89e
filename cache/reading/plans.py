"""Finding the plans that are stored in a cache."""

from pathlib import Path

from ..common.files import Inside
from ..format.plan_file import PLAN_FILE, PLANS, StoredPlan, read_plan
from ..plans.spec import PlanSpec


def stored_plans(split_folder: Path, fingerprint: str, rows: int) -> dict[PlanSpec, StoredPlan]:
    """The complete plans in a split's folder.

    Raises:
        MismatchError: a plan belongs to another cache or split.
        CorruptCacheError, FormatVersionError: a plan.json is damaged.
    """
    found, inside = {}, Inside(split_folder)
    for path in sorted((split_folder / PLANS).glob(f"*/{PLAN_FILE}")):
        plan = read_plan(inside.check(path), fingerprint, split_folder.name, rows)
        plan.check_headers()
        found[plan.spec] = plan
    return found
