"""Callbacks of the training loop: records, checkpoints, the evaluation after each epoch, requests to stop.

All ranks of a run have the same numbers and do the same at the same step; the first one alone writes.
"""

import time

from cache import Split
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.console.text import counted
from cache.format.files import FileInfo

from ..metrics.base import Scores
from ..metrics.evaluation import evaluate
from ..metrics.scores import is_better
from ..run_folder.console import TrainingProgress
from ..run_folder.folder import CHECKPOINTS, METRICS, TIMING, Json
from ..run_folder.records import Records, finite, joined_records
from ..run_folder.trackers import Trackers
from ..runtime import device as devices
from ..runtime.distributed import StopVote
from ..runtime.signals import StopRequest
from .checkpoint import load_weights, save_checkpoint
from .checkpoints import checkpoints, prune
from .epoch_row import epoch_row
from .setup import checkpoint_owner
from .speed import SpeedMeter
from .state import Meter, ResumePoint, Sums
from .step import OutOfMemoryError, learning_rate, non_finite


class RunCallbacks:
    """What the training loop calls between steps: it keeps a run's records and checkpoints, evaluates, and stops.

    The trackers receive the records too. `stop` is asked after every step.
    """

    def __init__(
        self, start: ResumePoint, run: Folder, progress: TrainingProgress, stop: StopRequest, trackers: Trackers
    ) -> None:
        self.setup, self.state, self.owner = start.setup, start.state, checkpoint_owner(start.info)
        self.progress, self.stop, self.trackers = progress, stop, trackers
        with storage_errors(run.path / CHECKPOINTS):
            self.checkpoints = run.folder(CHECKPOINTS, make=True)
            run.sync()
        self.ranks, self.vote = start.setup.ranks, StopVote(start.setup.ranks)
        self.speed = SpeedMeter(start.setup)
        self.lap_start, self.window_seconds = time.monotonic(), 0.0
        self.records: dict[str, Records] = {}
        try:
            for name in (METRICS, TIMING) if self.ranks.first else ():
                self.records[name] = Records(run, name, start.kept.get(name), progress.warn)
        except BaseException:
            self.close()
            raise

    def on_log(self) -> None:
        """Write a step record and start a new meter.

        Raises:
            NonFiniteError: a loss or gradient was not finite and the run is to stop for it.
        """
        state, setup = self.state, self.setup
        sums, norm, bad_step = state.meter.read()
        self._refuse_non_finite(bad_step)
        self._lap(training=True)
        seconds, self.window_seconds = self.window_seconds, 0.0
        timed = sums - state.meter.start  # the seconds of a process before this one are not known
        state.meter = Meter(setup.device, ranks=self.ranks)
        state.epoch_sums += sums
        state.skipped += sums.skipped_steps
        rate = learning_rate(setup, state.step - 1)
        speed = timed.real_tokens / max(seconds, 1e-9)
        memory = devices.peak_memory_bytes(setup.device)
        flops, timed_flops = (self.speed.model_flops(state.epoch, state.epoch_step, part) for part in (sums, timed))
        times = {"seconds": seconds, "tokens_per_second": speed, "peak_memory_bytes": memory}
        self._record(
            "step",
            {"loss": sums.mean_loss, "learning_rate": rate, "grad_norm": norm, **self._counts(sums), **flops},
            {**times, **self.speed.speed(timed_flops, seconds)},
        )
        self.progress.update(state.step, sums.mean_loss, speed)

    def _record(self, kind: str, result: Json, times: Json | None = None, epoch: int | None = None) -> None:
        """Write a record of the current step; `result` is the same in two equal runs, `times` is not."""
        position = {"kind": kind, "step": self.state.step, "epoch": epoch or self.state.epoch + 1}
        for name, content in ((METRICS, result), (TIMING, times)):
            if content and name in self.records:
                self.records[name].add({**position, **content})
        self.trackers.log({**position, **result, **(times or {})})

    def on_resume(self) -> bool:
        """Make up for an evaluation within an epoch during which the run was stopped; returns whether to stop."""
        return self._evaluation_is_due() and self.on_step_end()

    def on_step_end(self) -> bool:
        """Evaluate if that is due, and save a checkpoint if one is due, the model is the best so far or the run is to
        stop; returns whether to stop. Not called after the last step of an epoch."""
        due = self._evaluation_is_due()
        best = due and self._evaluate_within_epoch()
        stop = (self.vote.now if due else self.vote)(bool(self.stop))
        every = self.setup.settings.save_steps
        if stop or best or (every and self.state.step % every == 0):
            self.save()
        return stop

    def _evaluation_is_due(self) -> bool:
        """Whether the model is to be evaluated at this step within an epoch, and was not."""
        state, every = self.state, self.setup.settings.eval_steps
        within = state.epoch < len(self.setup.steps) and 0 < state.epoch_step < self.setup.steps[state.epoch]
        return every is not None and within and state.step % every == 0 and state.evaluated_step != state.step

    def _evaluate_within_epoch(self) -> bool:
        """Evaluate and record the model of this step; returns whether it is the best so far, False too if the
        evaluation was stopped."""
        state = self.state
        scores, seconds = self._evaluated()
        self.setup.model.train()
        if scores is None:
            return False
        result = scores.summary()
        self._record("eval", {"split": self.setup.settings.eval_split, **result})
        self.progress.epoch(epoch_row(self.setup, state, result, seconds, self._epoch_speed()[1].get("mfu")))
        state.scores, state.evaluated_step = finite(scores.to_json()), state.step
        return self._is_best(result, state.epoch + 1)

    def _epoch_speed(self) -> tuple[Json, Json]:
        """Model FLOPs and speed of the current epoch up to the last log point."""
        state = self.state
        flops = self.speed.model_flops(state.epoch, state.epoch_step, state.epoch_sums)
        return flops, self.speed.speed(flops, state.epoch_seconds)

    def on_epoch_end(self) -> bool:
        """Evaluate, record the epoch and move on to the next one; returns whether to stop."""
        state, setup = self.state, self.setup
        scores, eval_seconds = self._evaluated()
        stop = self.vote.now(bool(self.stop))
        if stop and scores is None:
            self.save()
            return True
        flops, speed = self._epoch_speed()
        times = {"seconds": state.epoch_seconds, "eval_seconds": eval_seconds, **speed}
        self._record("epoch", {"loss": state.epoch_sums.mean_loss, **self._counts(state.epoch_sums), **flops}, times)
        result = scores.summary() if scores is not None else {}
        if scores is not None:
            self._record("eval", {"split": setup.settings.eval_split, **result})
        row = epoch_row(setup, state, result, eval_seconds, speed.get("mfu"))
        state.scores = finite(scores.to_json()) if scores is not None else None
        state.epoch, state.epoch_step, state.epoch_sums, state.epoch_seconds = state.epoch + 1, 0, Sums(), 0.0
        best = self._is_best(result, state.epoch)
        last = state.is_finished(len(setup.steps), setup.settings.early_stopping)
        every = setup.settings.save_steps
        if last or best or stop or not every or state.step % every == 0:
            self.save()
        self.progress.epoch(row)
        return stop and not last

    def _is_best(self, result: Json, epoch: int) -> bool:
        """With `keep_best`, whether the evaluation just made, in an `epoch` from 1, is the best so far, which `state`
        then notes."""
        name, state = self.setup.settings.keep_best, self.state
        value = None if name is None else finite(result).get(name)
        if name is None or not is_better(name, value, None if state.best is None else state.best["value"]):
            return False
        state.best = {"epoch": epoch, "step": state.step, "value": value, "scores": state.scores}
        return True

    def save(self) -> None:
        """Write a checkpoint, then delete the oldest ones.

        Raises:
            NonFiniteError: the run is to stop for a loss that is not finite; no checkpoint is written.
        """
        window, _, bad_step = self.state.meter.read()
        self._refuse_non_finite(bad_step)
        self._lap(training=True)
        with self.ranks.together():
            if self.ranks.first:
                save_checkpoint(self.checkpoints, self.setup, self.state, window, self.owner, self.sync())
                best_step = None if self.state.best is None else self.state.best["step"]
                prune(self.checkpoints, self.setup.settings.keep_checkpoints, best_step)
        self._lap(training=False)

    def on_end(self) -> Json | None:
        """Go back to the best weights with `keep_best`, and evaluate on the test split where there is one.

        Returns:
            The scores on the test split, empty where there is none; None if told to stop meanwhile.

        Raises:
            CorruptCacheError: their checkpoint is missing or damaged.
        """
        setup, state = self.setup, self.state
        epoch = state.epoch
        if state.best is not None:
            epoch = state.best["epoch"]
            if state.best["step"] != state.step:
                with self.ranks.together():
                    load_weights(self.checkpoints, state.best["step"], setup)
        split = setup.split_named(setup.settings.test_split)
        if split is None:
            return {}
        scores = self._evaluate(split, None)
        if scores is None:
            return None
        self._lap(training=False)
        result = {"split": split.name, **scores.summary()}
        self._record("test", result, epoch=epoch)
        return {"split": split.name, **scores.to_json()}

    def sync(self) -> dict[str, FileInfo]:
        """Flush the record files to disk; returns size and checksum of each."""
        return {name: records.sync() for name, records in self.records.items()}

    def results(self) -> list[Json]:
        """The records of the epochs and their evaluations, with their times; of the first rank alone."""
        return joined_records(*(records.results for records in self.records.values())) if self.records else []

    def close(self) -> None:
        """Close the record files and the progress bar."""
        self.progress.close()
        for records in self.records.values():
            records.close()

    def _evaluated(self) -> tuple[Scores | None, float]:
        """Scores on the split to evaluate, None where there is none or if told to stop, and the seconds they took."""
        self._lap(training=True)
        split = self.setup.split_named(self.setup.settings.eval_split)
        scores = None if split is None else self._evaluate(split, self.setup.settings.eval_rows)
        return scores, self._lap(training=False)

    def _evaluate(self, split: Split, limit: int | None) -> Scores | None:
        """Scores of the model on a split, on about `limit` rows of it; None if told to stop meanwhile.

        Raises:
            OutOfMemoryError: a batch does not fit into memory; a process alone has saved a checkpoint.
        """
        settings = self.setup.settings
        with self.progress.evaluating(split.name, limit or len(split)) as bar:
            try:
                return evaluate(
                    self.setup.model,
                    split,
                    self.setup.device,
                    settings.precision,
                    settings.eval_batch_size,
                    limit,
                    lambda: bool(self.stop),
                    bar.update,
                    self.ranks,
                )
            except MemoryError as error:
                if not self.ranks.several:  # others are in the evaluation, and would not take part in saving
                    self.save()
                size = settings.eval_batch_size
                raise OutOfMemoryError(
                    f"out of memory while evaluating split {split.name!r} in batches of {counted(size, 'row')}; go on "
                    f"with: train run --resume {self.checkpoints.path.parent} --eval-batch-size {max(1, size // 4)}"
                ) from error

    def _counts(self, sums: Sums) -> Json:
        masked = {"masked_tokens": int(sums.weight)} if self.setup.masking is not None else {}
        skipped = {"skipped_updates": sums.skipped_steps} if sums.skipped_steps else {}
        tokens = {"real_tokens": sums.real_tokens, "padded_tokens": sums.padded_tokens}
        return {"rows": sums.rows, **tokens, **masked, **skipped}

    def _lap(self, training: bool) -> float:
        """Seconds since the last call, counted as training time or not."""
        now = time.monotonic()
        seconds, self.lap_start = now - self.lap_start, now
        self.state.seconds += seconds
        if training:
            self.state.epoch_seconds += seconds
            self.window_seconds += seconds
        return seconds

    def _refuse_non_finite(self, bad_step: int) -> None:
        """Stop the run for its first bad step, if there is one and the settings ask for it."""
        if bad_step >= 0 and self.setup.settings.on_nonfinite == "stop":
            with self.ranks.together():
                saved = checkpoints(self.checkpoints)
                raise non_finite(self.setup, bad_step, self.checkpoints.path / saved[0] if saved else None)
