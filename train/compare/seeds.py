"""Groups of runs that differ only by seed, under names that say how the groups differ."""

from collections.abc import Sequence
from pathlib import Path

from ..run_folder.folder import Json
from ..settings import FREE_ON_RESUME
from .results import RunResult

NOT_COMPARED = FREE_ON_RESUME | {"seed", "plan_seed"}
"""Settings in which the runs of a group may differ: their records are of the same steps. Caches are compared by
fingerprint, devices as they were found."""
NAMED_BY_VALUE = ("strategy", "cache_name", "device", "precision")
"""Settings whose value alone says what it is."""
NOT_NAMED = ("cache_fingerprint", "model_digest", "total_steps")
"""Differences that no name of a group shows."""


def groups_by_seed(results: Sequence[RunResult]) -> dict[str, list[int]]:
    """The groups by name, in the order given: the positions of their runs."""
    facts = [_facts(result) for result in results]
    groups: dict[str, list[int]] = {}
    for number, fact in enumerate(facts):
        groups.setdefault(repr(sorted(fact.items())), []).append(number)
    varying = [name for name in facts[0] if len({repr(fact.get(name)) for fact in facts}) > 1]
    names = [_name(facts[members[0]], varying) for members in groups.values()]
    return {
        name if names.count(name) == 1 else f"{name} ({index + 1})": members
        for index, (name, members) in enumerate(zip(names, groups.values(), strict=True))
    }


def _facts(result: RunResult) -> Json:
    info = result.info
    settings = {name: value for name, value in info.settings.to_json().items() if name not in NOT_COMPARED}
    return {
        **settings,
        "cache_name": info.cache_name,
        "max_length": info.max_length,
        "device": info.environment.get("device"),
        "total_steps": info.total_steps,
        "cache_fingerprint": info.cache_fingerprint,
        "model_digest": info.model_digest,
    }


def _name(facts: Json, varying: Sequence[str]) -> str:
    """The settings in which a group differs from the others, its strategy first."""
    parts = []
    for name in sorted(varying, key=lambda name: name != "strategy"):
        value = facts.get(name)
        if value is None or name in NOT_NAMED:
            continue
        if name == "model":
            parts.append(Path(str(value)).name)
        elif name in NAMED_BY_VALUE:
            parts.append(str(value))
        else:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts) or str(facts["strategy"])
