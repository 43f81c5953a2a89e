"""A loss or gradient that is not finite: which rows it came of, and where to go back to."""

from cache.common.folder import Folder
from cache.console.text import listed
from cache.errors import LengthwiseError

from .checkpoint import checkpoints
from .setup import TrainingSetup

MAX_ROWS_LISTED = 16
"""Number of rows that the error lists."""


class NonFiniteError(LengthwiseError):
    """A loss or gradient was infinite or not a number."""


def non_finite(setup: TrainingSetup, step: int, root: Folder) -> NonFiniteError:
    """The error for a step of the run, counted from 0; `root` is the folder of its checkpoints."""
    epoch, epoch_step = 0, step
    while epoch_step >= setup.steps[epoch]:
        epoch_step -= setup.steps[epoch]
        epoch += 1
    plan = setup.split.plan(setup.spec, epoch)
    begin, end = plan.batch_offsets[epoch_step : epoch_step + 2]
    rows = plan.rows[begin:end].astype("int64")
    numbers, source_rows = (
        listed(list(map(str, found)), MAX_ROWS_LISTED) for found in (rows, setup.split.source_rows[rows])
    )
    saved = checkpoints(root)
    good = f"the last good checkpoint is {root.path / saved[0]}" if saved else "no checkpoint was written before it"
    return NonFiniteError(
        f"the loss or its gradients were not finite at step {step + 1:,} (epoch {epoch + 1}); its batch holds the "
        f"rows {numbers} of split {setup.split.name!r} (source rows {source_rows}); "
        f"{good}; start again with a lower --lr, with --precision fp32, or with --on-nonfinite skip"
    )
