"""The speed of a run in model FLOPs, from the plan: nothing is counted while it trains."""

from collections.abc import Iterable

from cache.plans.strategies import EpochPlan

from ..metrics.flops import count_flops
from ..metrics.peaks import peak_tflops
from ..run_folder.folder import Json
from ..runtime import device as devices
from .setup import TrainingSetup
from .state import Sums


class SpeedMeter:
    """Model FLOPs of a run's steps, and what share of the device's peak they are. To count them the model computes a
    few tiny rows, see `metrics.flops`."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup, self.device_count = setup, setup.ranks.world_size
        self.flops = count_flops(setup.model)
        self.peak = peak_tflops(devices.device_name(setup.device), setup.settings.precision)
        self.epoch = -1
        self.plan: EpochPlan | None = None

    def model_flops(self, epoch: int, step: int, sums: Sums) -> Json:
        """The model FLOPs of the steps that `sums` are of, which end before `step` of an epoch, over all devices; empty
        where they cannot be counted."""
        if self.flops is None:
            return {}
        if self.plan is None or epoch != self.epoch:
            self.epoch, self.plan = epoch, self.setup.split.plan(self.setup.spec, epoch)
        end = int(self.plan.batch_offsets[step])
        lengths = self.setup.split.lengths[self.plan.rows[end - sums.rows : end]]
        masked = 0.0 if self.setup.masking is None else sums.weight
        return {"model_flops": self.flops.of_rows(lengths, masked)}

    def speed(self, counted: Json, seconds: float) -> Json:
        """What so many model FLOPs in so many seconds are for each device: TFLOP/s, and MFU where its peak is known."""
        if "model_flops" not in counted:
            return {}
        tflops = counted["model_flops"] / 1e12 / max(seconds, 1e-9) / self.device_count
        return {"model_tflops_per_second": tflops, **({} if self.peak is None else {"mfu": tflops / self.peak})}

    def of_run(self, records: Iterable[Json]) -> Json:
        """Model FLOPs and speed of a whole run's training, from the records of its epochs with their times; without
        what a damaged record took."""
        epochs = [record for record in records if record["kind"] == "epoch"]
        if not all("model_flops" in record for record in epochs):
            return {}
        counted = {"model_flops": sum(record["model_flops"] for record in epochs)}
        if not all("seconds" in record for record in epochs):
            return counted
        return {**counted, **self.speed(counted, sum(record["seconds"] for record in epochs))}
