"""The report of a run: what it trains, before the first step, and its results, after the last one."""

import shlex
from pathlib import Path

from cache.console.progress import clock
from cache.console.text import counted, listed, sized

from .forward.inputs import PADDING_SIDE
from .loop.resolution import corpus_metric
from .loop.setup import TrainingSetup
from .metrics.scores import main_score, score_title
from .run_folder.console import Log
from .run_folder.folder import METRICS, MODEL, Json
from .run_folder.trackers import Trackers
from .runtime.device import native_bf16
from .settings import NO_SPLIT


def report_start(setup: TrainingSetup, device_name: str, heaviest: str, log: Log) -> None:
    """Log model, cache, optimizations, device and steps; `heaviest` is the size of the largest micro-batch."""
    settings, optimizations = setup.settings, setup.optimizations
    parameters = sum(parameter.numel() for parameter in setup.model.parameters())
    target = _labels(setup) if setup.masking is None else f"{setup.masking.probability:.0%} of the tokens masked"
    trained = sum(parameter.numel() for parameter in setup.trained_parameters)
    frozen = f", {trained / 1e6:,.1f} M of them trained" * (trained < parameters)
    log(f"model      {settings.model} ({parameters / 1e6:,.1f} M parameters{frozen}, {target})")
    tokens = f"{counted(len(setup.split), 'row')}, {counted(setup.split.info.tokens, 'token')}"
    log(f"cache      {settings.cache} ({tokens}), plan {setup.spec.id}")
    if setup.cache.manifest.tokenizer.padding_side != PADDING_SIDE:
        log(f"padding    on the {PADDING_SIDE}, which the model needs; the tokenizer asks for the other side")
    part, subset = ("logits", "the masked tokens") if setup.masking else ("last layer", "the pooled token")
    reason = optimizations.all_tokens_reason
    log(f"{part:10} {f'for {subset} alone' if reason is None else f'for every token: {reason}'}")
    if settings.padding_free:
        reason = optimizations.padded_reason
        log(f"batches    {'rows end to end, without padding' if reason is None else f'padded: {reason}'}")
    if setup.device.type == "cpu":
        reason = optimizations.torch_kernels_reason
        log(f"attention  {'by blocks, dropout from raw bits' if reason is None else f'by torch: {reason}'}")
    log(f"device     {device_name}, {settings.precision}{', compiled' * settings.compile}")
    if setup.ranks.several:
        log(f"ranks      {setup.ranks.world_size}; each sends {sized(gradient_bytes(setup))} of gradients per step")
    epochs = counted(len(setup.steps), "epoch")
    log(f"steps      {setup.total_steps:,} in {epochs}; the heaviest batch, {heaviest}, fits")


def gradient_bytes(setup: TrainingSetup) -> int:
    """Bytes that a rank sends, and receives, in a step to add up gradients in a ring; small sums beside them are not
    counted."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in setup.trained_parameters)
    return 2 * (setup.ranks.world_size - 1) * size // setup.ranks.world_size


def run_warnings(setup: TrainingSetup) -> list[str]:
    """What to say of settings that do not go together."""
    settings, total = setup.settings, setup.total_steps
    warnings = [small_batch_warning(setup)]
    if settings.max_steps is not None and total < settings.max_steps:
        enough = -(-settings.max_steps * len(setup.steps) // max(total, 1))
        warnings.append(
            f"warning: --epochs {settings.epochs} gives {counted(total, 'step')}, fewer than "
            f"--max-steps {settings.max_steps:,}; for as many pass --epochs {enough}"
        )
    if settings.warmup_steps >= total:
        warnings.append(
            f"warning: the warm-up takes {settings.warmup_steps:,} steps and the run has {total:,}, so the learning "
            "rate never reaches --lr; lower --warmup-steps, or pass --warmup-ratio 0.1 instead"
        )
    if settings.precision == "fp32" and setup.device.type == "cuda" and not native_bf16(setup.device):
        warnings.append("this GPU computes no bf16, and the run is in fp32; try --precision fp16")
    return [warning for warning in warnings if warning]


def small_batch_warning(setup: TrainingSetup) -> str | None:
    """What to say of a batch size that leaves some ranks or micro-batches without a row in every step."""
    several, accumulation = setup.ranks.several, setup.settings.gradient_accumulation_steps
    turns, size = setup.ranks.world_size * accumulation, setup.spec.batch_size
    if size is None or size >= turns:
        return None
    return (
        f"warning: --batch-size {size} is less than {f'{setup.ranks.world_size} ranks x ' * several}{accumulation} "
        f"micro-batches, so some of them are empty in every step; pass --batch-size {turns} or more"
    )


def _labels(setup: TrainingSetup) -> str:
    task = setup.cache.manifest.task
    if task.kind == "regression":
        return "regression"
    return "labels " + listed(task.label_names, 4)


def report_end(folder: Path, summary: Json, setup: TrainingSetup, trackers: Trackers, log: Log) -> None:
    """Log time, memory, the model's folder and the next commands."""
    settings, task = setup.settings, setup.cache.manifest.task
    for name, step in trackers.lost.items():
        log(f"{name:10} incomplete: it failed after step {step:,}; {METRICS} has every record")
    if summary["skipped_updates"]:
        log(f"skipped    {counted(summary['skipped_updates'], 'update')}, whose loss or gradients were not finite")
    if summary["steps"] < setup.total_steps:
        waited = counted(settings.early_stopping or 0, "epoch")
        log(f"stopped    at step {summary['steps']:,} of {setup.total_steps:,}, after {waited} without a new best")
    if "best_epoch" in summary:
        epoch = f"epoch {summary['best_epoch']}" + f", step {summary['best_step']:,}" * bool(settings.eval_steps)
        log(f"best       {epoch}, by {settings.keep_best} on {settings.eval_split}; exported")
        if settings.eval_split == "test":
            log("           its scores are optimistic, for the test rows chose the epoch; see prep build --validation")
    if "test" in summary:
        loss = summary["test"]["loss"]
        shown = main_score(summary["test"], corpus_metric(setup.cache, str(settings.task)))
        score = "" if shown is None else f", {score_title(shown[0])} {shown[1]:.4f}"
        log(f"{summary['test']['split']:10} loss {loss:.4f}{score}, on {counted(summary['test']['rows'], 'row')}")
    memory = summary["peak_memory_bytes"]
    peak = f", peak memory {memory / 2**20:,.0f} MiB" if memory else ""
    log(f"time       {clock(summary['seconds'])}{_speed(summary)}{peak}")
    log(f"model      {folder / MODEL}")
    run, model, cache = (shlex.quote(str(path)) for path in (folder, folder / MODEL, settings.cache))
    evaluated = settings.eval_split if settings.test_split in (None, NO_SPLIT) else settings.test_split
    if evaluated != NO_SPLIT:
        log(f"next       train eval {run} --cache {cache} --split {evaluated}")
    if setup.masking is not None:
        labelled = cache if task.labelled else "CACHE-WITH-LABELS"
        log(f"next       train run --cache {labelled} --model {model}")
    else:
        example = "$'first text\\tsecond text'" if task.pair else '"a text of your own"'
        log(f"next       train predict {run} {example}")


def _speed(summary: Json) -> str:
    if "model_tflops_per_second" not in summary:
        return ""
    mfu = f" ({summary['mfu']:.1%} MFU)" if "mfu" in summary else ""
    return f", {summary['model_tflops_per_second']:.3g} model TFLOP/s{mfu} while training"
