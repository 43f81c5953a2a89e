"""How well ranks are used that share an epoch of the reviews: who waits, who computes padding; beside other samplers.

    python -m benchmarks.utilization --quick

Nothing is timed. A rank's cost in a step is counted in operations of a BERT-base's linear layers and attention
(`cache.plans.shares.row_costs`), of its rows padded to the longest of them, and of the same rows packed. Peers' batches
come from their own samplers, drawn for each rank as its process does.

- busy: mean / max cost over the ranks, steps weighted by their time.
- by step: the same, a plain mean over steps.
- useful: as busy, with only what the rows cost without padding above; 1 would be tokens and nothing else.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import timing
from .corpus import MAX_LENGTH, review_lengths
from .timing import Json, say

RANKS = (2, 4, 8, 16, 32, 64)
TARGET = 0.99
Shares = list[list[np.ndarray]]
"""For each rank the rows of each of its steps."""


def main() -> None:
    settings = timing.arguments(__doc__, rows_per_rank=16, epochs=3).parse_args()
    lengths = review_lengths(25_000)
    ranks = (2, 8) if settings.quick else RANKS
    epochs = 1 if settings.quick else settings.epochs
    rows = []
    for name, (draw, packed) in WAYS.items():
        for count in ranks:
            say(f"{name}, {count} ranks")
            drawn = [draw(lengths, count, settings.rows_per_rank, epoch) for epoch in range(epochs)]
            rows.append({"way": name, "ranks": count, **_use(drawn, lengths, packed)})
    columns = {
        "way": f"{settings.rows_per_rank} rows a rank, {epochs} epochs",
        "ranks": "ranks",
        "busy": "busy",
        "busy_by_step": "by step",
        "useful": "useful",
        "rows_twice": "rows twice",
    }
    title = "Use of ranks: 25,000 reviews, operations of a BERT-base; counted, not timed"
    timing.report("utilization", title, rows, columns, _targets(rows), settings)


def _use(epochs: Sequence[Shares], lengths: np.ndarray, packed: bool) -> Json:
    """The use of ranks over some epochs.

    Raises:
        SystemExit: rows were left out.
    """
    from cache.plans.shares import row_costs

    costs = row_costs(lengths)
    busy = needed = slowest = 0
    by_step, twice = [], 0
    for shares in epochs:
        seen = np.bincount(np.concatenate([rows for own in shares for rows in own]), minlength=len(lengths))
        if not seen.all():
            raise SystemExit(f"{np.count_nonzero(seen == 0):,} rows were left out")
        twice += int(seen.sum()) - len(lengths)
        for step in zip(*shares, strict=True):
            computed = [costs[rows].sum() if packed else len(rows) * costs[rows].max(initial=0) for rows in step]
            busy += sum(computed)
            slowest += len(step) * max(computed)
            by_step.append(float(np.mean(computed) / max(computed)))
        needed += int(costs.sum())
    return {
        "busy": float(busy / slowest),
        "busy_by_step": float(np.mean(by_step)),
        "useful": float(needed / slowest),
        "rows_twice": twice,
    }


def _targets(rows: Sequence[Json]) -> dict[str, Any]:
    """The least use that the strategies reach over the numbers of ranks."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        if row["way"] in TARGETS:
            found.setdefault(row["way"], []).append(row)
    worst = {way: min(some, key=lambda row: row["busy"]) for way, some in found.items()}
    return {f"{way}: least busy, at {row['ranks']} ranks (target: {TARGET})": row["busy"] for way, row in worst.items()}


# --- who shares out how


def ours(strategy: str, packed: bool, equal_rows: bool = False) -> tuple[Callable[..., Shares], bool]:
    """A plan's batches of as many rows for each rank, as `split.batches` shares them out."""

    def draw(lengths: np.ndarray, ranks: int, per_rank: int, epoch: int) -> Shares:
        from cache.batches.micro_batches import Sharing, micro_batches
        from cache.plans.spec import PlanSpec
        from cache.plans.strategies import plan_epoch

        plan = plan_epoch(lengths, PlanSpec(strategy, per_rank * ranks), epoch, MAX_LENGTH)
        shares = []
        for rank in range(ranks):
            sharing = Sharing(MAX_LENGTH, rank, ranks, packed=packed, equal_rows=equal_rows)
            shares.append([part.rows for part in micro_batches(plan, lengths, 0, len(plan), sharing)])
        return shares

    return draw, packed


def whole(batches: Callable[..., Any], packed: bool = False) -> tuple[Callable[..., Shares], bool]:
    """Batches of one rank's size, handed out whole by accelerate, rank after rank, as the Trainer does."""

    def draw(lengths: np.ndarray, ranks: int, per_rank: int, epoch: int) -> Shares:
        from accelerate.data_loader import BatchSamplerShard

        def of_rank(rank: int) -> Iterator[Sequence[int]]:
            return iter(BatchSamplerShard(batches(lengths, per_rank, epoch), ranks, rank))

        return [[np.array(rows) for rows in of_rank(rank)] for rank in range(ranks)]

    return draw, packed


def _cut(sampler: Iterable[int], per_rank: int) -> Any:
    from torch.utils.data import BatchSampler

    return BatchSampler(sampler, per_rank, drop_last=False)


def trainer_random(lengths: np.ndarray, per_rank: int, epoch: int) -> Any:
    """The Trainer's random order."""
    from torch.utils.data import RandomSampler

    return _cut(RandomSampler(range(len(lengths)), generator=_generator(epoch)), per_rank)


def trainer_grouped(lengths: np.ndarray, per_rank: int, epoch: int) -> Any:
    """The Trainer's `group_by_length`."""
    return _cut(_length_grouped(lengths, per_rank, epoch), per_rank)


def tutorial_slices(lengths: np.ndarray, per_rank: int, epoch: int) -> list[list[int]]:
    """The tutorial's batches of one rank's size."""
    from cache.plans.spec import PlanSpec
    from cache.plans.strategies import plan_epoch

    plan = plan_epoch(lengths, PlanSpec("smart", per_rank), epoch, MAX_LENGTH)
    return [rows.tolist() for rows in np.split(plan.rows.astype(np.int64), plan.batch_offsets[1:-1])]


def trainer_rebalanced(lengths: np.ndarray, ranks: int, per_rank: int, epoch: int) -> Shares:
    """The Trainer's `batch_rebalance`; all ranks' shares of a batch from one call, which each of them makes."""
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    class EveryRank(BatchRebalanceSampler):
        def _yield_global_batch(self, batch_indices: list[int]) -> Iterator[Any]:
            yield self._assign(batch_indices, [self.lengths[index] for index in batch_indices])

    sampler = EveryRank(lengths.tolist(), per_rank * ranks, ranks, 1, drop_last=False)
    sampler.set_epoch(epoch)
    steps = list(sampler)
    return [[np.array(step[rank][0]) for step in steps] for rank in range(ranks)]


def lightning_grouped(lengths: np.ndarray, ranks: int, per_rank: int, epoch: int) -> Shares:
    """Lightning wraps a sampler so that each rank takes every n-th of its rows, here of length groups."""
    from lightning.fabric.utilities.distributed import DistributedSamplerWrapper

    shares = []
    for rank in range(ranks):
        wrapped = DistributedSamplerWrapper(_length_grouped(lengths, per_rank, epoch), ranks, rank, shuffle=False)
        shares.append([np.array(rows) for rows in _cut(wrapped, per_rank)])
    return shares


def _length_grouped(lengths: np.ndarray, per_rank: int, epoch: int) -> Any:
    from transformers.trainer_pt_utils import LengthGroupedSampler

    return LengthGroupedSampler(per_rank, lengths=lengths.tolist(), generator=_generator(epoch))


def _generator(epoch: int) -> Any:
    import torch

    return torch.Generator().manual_seed(epoch)


WAYS: dict[str, tuple[Callable[..., Shares], bool]] = {
    "smart": ours("smart", packed=False),
    "tight": ours("tight", packed=False),
    "dynamic": ours("dynamic", packed=False),
    "dynamic --padding-free": ours("dynamic", packed=True),
    "smart --padding-free": ours("smart", packed=True),
    "tight --padding-free": ours("tight", packed=True),
    "smart, equal rows": ours("smart", packed=False, equal_rows=True),
    "dynamic, equal rows": ours("dynamic", packed=False, equal_rows=True),
    "dynamic --padding-free, equal rows": ours("dynamic", packed=True, equal_rows=True),
    "Trainer, random": whole(trainer_random),
    "Trainer, random, packed": whole(trainer_random, packed=True),
    "Trainer, group_by_length": whole(trainer_grouped),
    "Trainer, batch_rebalance": (trainer_rebalanced, False),
    "accelerate, the tutorial's batches": whole(tutorial_slices),
    "Lightning, length groups": (lightning_grouped, False),
}
"""Each way's shares of an epoch, and whether rows are packed."""
TARGETS = ("smart", "tight", "dynamic --padding-free", "smart --padding-free", "tight --padding-free")

if __name__ == "__main__":
    main()
