"""The line that the report of a run has for each evaluation and each epoch."""

from cache.console.progress import clock

from ..metrics.scores import score_title
from ..run_folder.folder import Json
from .setup import TrainingSetup
from .state import State, Sums


def epoch_row(
    setup: TrainingSetup, state: State, result: Json, eval_seconds: float, mfu: float | None
) -> dict[str, str]:
    """The cells of the line, by title; losses and speed are of the current epoch up to the last log point. `result` is
    the summary of the evaluation, empty if there was none; `mfu` is None where it is not known."""
    sums = state.epoch_sums
    done = state.epoch + state.epoch_step / max(setup.steps[state.epoch], 1)
    scores = {name: value for name, value in result.items() if name not in ("loss", "rows")}
    row = {"epoch": f"{round(done, 2):g}/{len(setup.steps)}", "train loss": _loss(sums)}
    if result:
        row["eval loss"] = f"{result['loss']:.4f}"
    row |= {score_title(name): f"{value:.4f}" for name, value in scores.items()}
    row["tokens/s"] = f"{sums.real_tokens / max(state.epoch_seconds, 1e-9):,.0f}"
    if mfu is not None:
        row["MFU"] = f"{mfu:.1%}"
    row["padding"] = f"{sums.padded_tokens / max(sums.real_tokens, 1) - 1:.1%}"
    row["time"] = clock(state.epoch_seconds)
    return row | ({"eval time": clock(eval_seconds)} if result else {})


def _loss(sums: Sums) -> str:
    """The mean loss; without one, whether it was not finite or there was nothing to predict."""
    if sums.mean_loss is None:
        return "not finite" if sums.skipped_steps else "none"
    return f"{sums.mean_loss:.4f}"
