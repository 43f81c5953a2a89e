"""How random is an order? How often two rows that meet in a batch had met before, by strategy.

    python -m benchmarks.meetings

What that does to learning is what `python -m benchmarks.quality` measures.
"""

from . import timing
from .timing import Json, apart

BUDGET = 4096
"""Padded tokens of a `budget` batch: about 16 reviews of average length."""
EPOCHS_TO_MEET = 10


def main() -> None:
    """How often two rows that meet in a batch had met before, over ten epochs of the 25,000 reviews."""
    settings = timing.arguments(__doc__).parse_args()
    rows: list[Json] = apart("meetings", "count_meetings")[1]
    columns = {
        "strategy": "strategy",
        "meetings": "pairs in a batch, 10 epochs",
        "distinct": "different pairs",
        "again": "share that had met before",
        "times_random": "x random order",
    }
    ratios = {f"{row['strategy']}, met before / random order": row["times_random"] for row in rows}
    title = f"How random: {EPOCHS_TO_MEET} epochs of the 25,000 reviews, batch 16 (budget {BUDGET:,} tokens)"
    timing.report("quality-meetings", title, rows, columns, ratios, settings)


def count_meetings() -> list[Json]:
    """Draw ten epochs with each strategy and count."""
    import numpy as np

    from cache.plans.spec import PlanSpec
    from cache.plans.strategies import plan_epoch

    from .corpus import MAX_LENGTH, ROWS, review_lengths

    lengths = review_lengths(ROWS)
    rows: list[Json] = []
    for strategy in ("dynamic", "smart", "tight", "budget"):
        spec = PlanSpec(strategy, None, BUDGET) if strategy == "budget" else PlanSpec(strategy, 16)
        pairs = []
        for epoch in range(EPOCHS_TO_MEET):
            plan = plan_epoch(lengths, spec, epoch, MAX_LENGTH)
            for size in np.unique(plan.sizes).tolist():
                starts = plan.batch_offsets[:-1][plan.sizes == size]
                batches = plan.rows[starts[:, None] + np.arange(size)].astype(np.int64)  # (batches, size)
                one, other = np.triu_indices(size, 1)
                pairs.append((batches[:, one] * ROWS + batches[:, other]).ravel())
        every = np.concatenate(pairs)
        distinct = len(np.unique(every))
        row = {"strategy": strategy, "meetings": len(every), "distinct": distinct, "again": 1 - distinct / len(every)}
        rows.append({**row, "times_random": row["again"] / rows[0]["again"] if rows else 1.0})
    return rows


if __name__ == "__main__":
    main()
