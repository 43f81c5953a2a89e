"""`train run`'s own loop, measured, its memory beside the forecast, and its profile."""

import re
import time
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cache import open_cache
from cache.errors import InputError
from prep.inspect.memory import peak_bytes
from prep.inspect.model_size import read_size
from train.forward.half_weights import HalfWeights
from train.loop.oom_check import check_memory
from train.loop.resolution import resolve_settings
from train.loop.setup import TrainingSetup, check_padding_free, prepare_training
from train.loop.speed import SpeedMeter
from train.loop.state import Meter, State
from train.run import train
from train.runtime.device import peak_memory_bytes
from train.settings import Settings

from ..timing import WORK, Json
from .common import SEED, WINDOWS, Place, Window, rates

TYPICAL_TOKENS = 256
"""Of a row, to tell about how many rows a batch of so many tokens holds."""


@dataclass
class Windows:
    """Callbacks of the loop that `train run` runs: its sums at the ends of windows and epochs, and no files.

    Attributes:
        setup, state: what is trained, and how far it is.
        steps: of a window.
        done: windows that have ended.
        current: the one under way, up to its last log point.
    """

    setup: TrainingSetup
    state: State
    steps: int
    done: list[Window] = field(default_factory=list)
    current: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        self.speed = SpeedMeter(self.setup)
        self.start = time.perf_counter()

    def at_begin(self, number: int) -> None:
        """Called as a window begins, the device at rest."""

    def at_end(self, number: int) -> None:
        """Called as a window ends, before the device is waited for."""

    def on_log(self) -> None:
        state, window = self.state, self.current
        closes = state.step % self.steps == 0
        if closes:
            self.at_end(len(self.done))
        sums, _, bad_step = state.meter.read()
        if bad_step >= 0:
            raise ValueError(f"the loss or a gradient was not finite at step {bad_step + 1}")
        now = time.perf_counter()
        window.seconds += now - self.start
        window.rows += sums.rows
        window.real_tokens += sums.real_tokens
        window.padded_tokens += sums.padded_tokens
        window.model_flops += self.speed.model_flops(state.epoch, state.epoch_step, sums).get("model_flops", 0.0)
        window.loss = sums.mean_loss or 0.0
        state.meter = Meter(self.setup.device)
        if closes:
            self.done.append(window)
            self.current = Window()
            self.at_begin(len(self.done))
        self.start = time.perf_counter()

    def on_step_end(self) -> bool:
        return False

    def on_epoch_end(self) -> bool:
        self.state.epoch, self.state.epoch_step = self.state.epoch + 1, 0
        return False


def prepared(place: Place, case: Json, steps: int) -> tuple[TrainingSetup, State]:
    """All that `train run` prepares for these settings, its OOM check passed."""
    cache = open_cache(place.cache)
    options = {name: value for name, value in case.items() if name not in ("model", "cast_together")}
    settings = Settings(
        cache=place.cache,
        model=case["model"],
        device=str(place.device),
        lr=1e-4,
        seed=SEED,
        eval_split="none",
        test_split="none",
        epochs=3,  # more than it takes
        max_steps=WINDOWS * steps,
        logging_steps=steps,
        **options,
    )
    settings, device = resolve_settings(settings, cache)
    setup = prepare_training(place.model(case["model"]), cache, settings, device)
    if not case.get("cast_together", True):
        vars(setup)["half_weights"] = HalfWeights(setup.model, "fp32")
    state = State(Meter(device))
    check_padding_free(setup)
    check_memory(setup, state)
    torch.manual_seed(SEED)
    return setup, state


def measure_ours(place: Place, **case: Any) -> Json:
    """`train run`'s loop."""
    steps = place.window(case.get("batch_size") or case["max_tokens"] // TYPICAL_TOKENS)
    setup, state = prepared(place, case, steps)
    windows = Windows(setup, state, steps)
    train(setup, state, windows)
    optimizations = {name: reason for name, reason in vars(setup.optimizations).items() if reason}
    found = rates(windows.done, place.epoch_tokens(), windows.speed.peak)
    return {**found, "peak_memory_bytes": peak_memory_bytes(setup.device), "not_used": optimizations}


# --- memory


def measure_memory(place: Place, model: str, batch_size: int, precision: str) -> Json:
    """Peak memory of steps on batches as wide as the cache's longest rows, and what `prep info --model` foresees."""
    case = {"model": model, "strategy": "fixed", "batch_size": batch_size, "precision": precision}
    setup, state = prepared(place, case, 1)
    train(setup, state, Windows(setup, state, 1))
    found = {"width": setup.cache.manifest.max_length, "peak_memory_bytes": peak_memory_bytes(setup.device)}
    folder = WORK / "gpu-configs" / f"{model}{'-tiny' * place.quick}"
    place.config(model).save_pretrained(folder)
    try:
        size = read_size(str(folder), 2)
    except InputError:  # ModernBERT's memory is not foreseen
        return found
    return {**found, "forecast_bytes": peak_bytes(size, batch_size, found["width"], precision)}


# --- profile

TOP = 12
"""Kernels that a profile names."""
PRODUCTS = r"gemm|nvjet|cutlass|xmma|Cijk|flash|fmha|sdpa|attention"
"""In the names of kernels that are matrix products or attention."""
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::unique_consecutive")
"""Operations whose result the host waits for."""


class ProfiledWindows(Windows):
    """A window to warm up, a plain one, one under the profiler, one in which torch warns of each synchronization."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stack = ExitStack()
        self.profiler: Any = None
        self.warned: Any = []

    def at_begin(self, number: int) -> None:
        cuda = self.setup.device.type == "cuda"
        if number == 2:
            kinds = {torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] * cuda)}
            self.profiler = self.stack.enter_context(torch.profiler.profile(activities=kinds))
        elif number == 3 and cuda:
            self.warned = self.stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            self.stack.callback(torch.cuda.set_sync_debug_mode, "default")
            torch.cuda.set_sync_debug_mode("warn")

    def at_end(self, number: int) -> None:
        if number == 2 and self.setup.device.type == "cuda":
            torch.cuda.synchronize()  # the kernels under way belong to it
        self.stack.close()


def measure_profile(place: Place, **case: Any) -> Json:
    """The longest kernels, the share of time in which the device has nothing to do, and where the host waits for it.

    The device's busy time is of the profiled window; it is compared with the time of as many tokens in the plain one,
    for profiling slows the host. On a CPU operations stand for kernels, and there is no waiting.
    """
    steps = 2 if place.quick else 20
    setup, state = prepared(place, case, steps)
    windows = ProfiledWindows(setup, state, steps)
    train(setup, state, windows)
    _, plain, profiled, _ = windows.done
    averages = windows.profiler.key_averages()
    times = {event.key: event.self_device_time_total / 1e6 for event in averages if _is_kernel(event)}
    scale = profiled.real_tokens / plain.real_tokens * plain.seconds  # the profiled steps' time, had they been plain
    found: Json = {"step_ms": scale / steps * 1e3}
    if times:
        busy = _union(windows.profiler.events()) / 1e6
        products = sum(seconds for name, seconds in times.items() if re.search(PRODUCTS, name))
        reads = sum(event.count for event in averages if event.key in READS)
        warned = [warning for warning in windows.warned if "synchronizing" in str(warning.message)]
        found |= {
            "idle": 1 - busy / scale,
            "step_over_products": scale / products if products else float("nan"),
            "host_reads_per_step": reads / steps,
            "synchronizations_per_step": len(warned) / steps,
            "synchronizing": sorted({f"{Path(warning.filename).name}:{warning.lineno}" for warning in warned}),
        }
    else:
        times = {event.key: event.self_cpu_time_total / 1e6 for event in averages}
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])[:TOP]
    top = [
        {"kernel": name[:90], "ms_per_step": seconds / steps * 1e3, "share": seconds / total}
        for name, seconds in longest
    ]
    return {**found, "top": top}


def _is_kernel(event: Any) -> bool:
    """Whether an event of the profiler is something that the device did."""
    return event.device_type != torch.autograd.DeviceType.CPU and not event.is_user_annotation


def _union(events: Any) -> float:
    """Microseconds in which at least one kernel ran."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in events if _is_kernel(event))
    covered, reached = 0.0, float("-inf")
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
