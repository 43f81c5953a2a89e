"""What stands beside the training loop: records, checkpoints, the evaluation after each epoch, requests to stop."""

import time
from pathlib import Path

from cache import Split
from cache.common.progress import clock
from cache.errors import LengthwiseError

from . import device as devices
from .checkpoint import checkpoints, prune, save_checkpoint
from .loop import Job, schedule
from .metrics.evaluation import evaluate
from .metrics.scores import TITLES, Scores
from .run_folder.console import Screen
from .run_folder.records import CHECKPOINTS, METRICS, TIMING, Json, Records
from .run_folder.trackers import Trackers
from .settings import NO_SPLIT
from .signals import StopRequest
from .state import Meter, State, Sums

ROWS_NAMED = 16
"""Rows of a batch that an error lists."""


class NonFiniteError(LengthwiseError):
    """A loss or gradient was infinite or not a number."""


class Watch:
    """The `Watcher` of a run; see `loop`.

    Args:
        job: what is trained.
        state: where it stands.
        folder: the run folder.
        owner: what checkpoints belong to.
        sizes: bytes of each record file that are to be kept.
        screen: shows progress.
        stop: asked after every step.
        trackers: where records go besides.
    """

    def __init__(
        self,
        job: Job,
        state: State,
        folder: Path,
        owner: Json,
        sizes: dict[str, int],
        screen: Screen,
        stop: StopRequest,
        trackers: Trackers,
    ) -> None:
        self.job, self.state, self.folder, self.owner = job, state, folder, owner
        self.screen, self.stop, self.trackers = screen, stop, trackers
        self.metrics = Records(folder / METRICS, sizes.get(METRICS, 0))
        self.timing = Records(folder / TIMING, sizes.get(TIMING, 0))
        self.mark = time.monotonic()

    def log(self) -> None:
        """Write a step record and start a new meter.

        Raises:
            NonFiniteError: a loss or gradient was not finite and the run is to stop for it.
        """
        state, job = self.state, self.job
        sums, norm, bad_step = state.meter.read()
        if bad_step >= 0 and job.settings.on_nonfinite == "stop":
            raise self._non_finite(bad_step)
        seconds = self._lap(training=True)
        state.meter = Meter(job.device)
        state.epoch_sums += sums
        state.skipped += sums.skipped_steps
        rate = schedule(state.step - 1, job.settings.warmup(job.total_steps), job.total_steps) * job.settings.lr
        speed = sums.real_tokens / max(seconds, 1e-9)
        memory = devices.peak_memory_bytes(job.device)
        self._record(
            "step",
            {"loss": sums.mean_loss, "learning_rate": rate, "grad_norm": norm, **self._counts(sums)},
            {"seconds": seconds, "tokens_per_second": speed, "peak_memory_bytes": memory},
        )
        self.screen.update(state.step, sums.mean_loss, speed)

    def _record(self, kind: str, result: Json, times: Json | None = None) -> None:
        """Write a record of the present step: what is the same in two equal runs, and what is not."""
        position = {"kind": kind, "step": self.state.step, "epoch": self.state.epoch + 1}
        self.metrics.add({**position, **result})
        if times:
            self.timing.add({**position, **times})
        self.trackers.log({**position, **result, **(times or {})})

    def _row(self, result: Json, eval_seconds: float) -> dict[str, str]:
        """The epoch's line in the report; `result` is the summary of its evaluation, empty where there was none."""
        state, sums = self.state, self.state.epoch_sums
        scores = {name: value for name, value in result.items() if name not in ("loss", "rows")}
        row = {"epoch": f"{state.epoch + 1}/{len(self.job.steps)}", "train loss": _number(sums.mean_loss)}
        if result:
            row["eval loss"] = _number(result["loss"])
        row |= {TITLES.get(name, name): _number(value) for name, value in scores.items()}
        row["tokens/s"] = f"{sums.real_tokens / max(state.epoch_seconds, 1e-9):,.0f}"
        row["padding"] = f"{sums.padded_tokens / max(sums.real_tokens, 1) - 1:.1%}"
        row["time"] = clock(state.epoch_seconds)
        return row | ({"eval time": clock(eval_seconds)} if result else {})

    def pause(self) -> bool:
        """Save a checkpoint if one is due or the run is to stop; whether to stop."""
        stop = bool(self.stop)
        every = self.job.settings.save_steps
        if stop or (every and self.state.step % every == 0):
            self.save()
        return stop

    def end_epoch(self) -> bool:
        """Evaluate, record the epoch and move on to the next; whether to stop."""
        state, job = self.state, self.job
        self._lap(training=True)
        scores = self._evaluate()
        if self.stop and scores is None:
            self.save()
            return True
        eval_seconds = self._lap(training=False)
        times = {"seconds": state.epoch_seconds, "eval_seconds": eval_seconds}
        self._record("epoch", {"loss": state.epoch_sums.mean_loss, **self._counts(state.epoch_sums)}, times)
        result = scores.summary() if scores is not None else {}
        if scores is not None:
            self._record("eval", {"split": job.settings.eval_split, **result})
        self.screen.epoch(self._row(result, eval_seconds))
        state.scores = scores.to_json() if scores is not None else None
        state.epoch, state.epoch_step, state.epoch_sums, state.epoch_seconds = state.epoch + 1, 0, Sums(), 0.0
        last, every = state.epoch == len(job.steps), job.settings.save_steps
        if last or self.stop or not every or state.step % every == 0:
            self.save()
        return bool(self.stop) and not last

    def save(self) -> Path:
        """Write a checkpoint, then delete those that are not to be kept.

        Raises:
            NonFiniteError: the run is to stop for a loss that is not finite; nothing is written.
        """
        bad_step = self.state.meter.read()[2]
        if bad_step >= 0 and self.job.settings.on_nonfinite == "stop":
            raise self._non_finite(bad_step)
        self._lap(training=True)
        sizes = {METRICS: self.metrics.sync(), TIMING: self.timing.sync()}
        root = self.folder / CHECKPOINTS
        place = save_checkpoint(root, self.job, self.state, self.owner, sizes)
        prune(root, self.job.settings.keep_checkpoints)
        self._lap(training=False)
        return place

    def close(self) -> None:
        """Close the record files and the screen."""
        self.screen.close()
        self.metrics.close()
        self.timing.close()

    def _evaluate(self) -> Scores | None:
        split = evaluation_split(self.job)
        if split is None:
            return None
        settings = self.job.settings
        with self.screen.evaluating(split.name, settings.eval_rows or len(split)) as progress:
            return evaluate(
                self.job.model,
                split,
                self.job.device,
                settings.precision,
                settings.eval_batch_size,
                settings.eval_rows,
                lambda: bool(self.stop),
                progress.update,
            )

    def _counts(self, sums: Sums) -> Json:
        hidden = {"hidden_tokens": int(sums.weight)} if self.job.masking is not None else {}
        skipped = {"skipped_updates": sums.skipped_steps} if sums.skipped_steps else {}
        tokens = {"real_tokens": sums.real_tokens, "padded_tokens": sums.padded_tokens}
        return {"rows": sums.rows, **tokens, **hidden, **skipped}

    def _lap(self, training: bool) -> float:
        """Seconds since the last call, counted as training or as something else."""
        now = time.monotonic()
        seconds, self.mark = now - self.mark, now
        self.state.seconds += seconds
        if training:
            self.state.epoch_seconds += seconds
        return seconds

    def _non_finite(self, step: int) -> NonFiniteError:
        job = self.job
        epoch, epoch_step = 0, step
        while epoch_step >= job.steps[epoch]:
            epoch_step -= job.steps[epoch]
            epoch += 1
        plan = job.split.plan(job.spec, epoch)
        begin, end = plan.batch_offsets[epoch_step : epoch_step + 2]
        rows = plan.rows[begin:end].astype("int64")
        saved = checkpoints(self.folder / CHECKPOINTS)
        good = f"the last good checkpoint is {saved[0]}" if saved else "no checkpoint was written before it"
        return NonFiniteError(
            f"the loss or its gradients were not finite at step {step + 1:,} (epoch {epoch + 1}); its batch holds the "
            f"rows {_listed(rows)} of split {job.split.name!r} (source rows {_listed(job.split.source_rows[rows])}); "
            f"{good}; start again with a lower --lr, with --precision fp32, or with --on-nonfinite skip"
        )


def evaluation_split(job: Job) -> Split | None:
    """The split to evaluate after each epoch, if any."""
    name = job.settings.eval_split
    return None if name in (None, NO_SPLIT) else job.split.cache[str(name)]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _listed(rows: "object") -> str:
    values = [int(row) for row in rows]  # type: ignore[attr-defined]
    more = f" and {len(values) - ROWS_NAMED} more" if len(values) > ROWS_NAMED else ""
    return ", ".join(map(str, values[:ROWS_NAMED])) + more
