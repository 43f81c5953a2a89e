"""The cases of each stage, the most telling first, for a stage may be cut short."""

from collections.abc import Iterator

from ..timing import Json

BASE: Json = {"model": "bert-base", "batch_size": 16, "precision": "bf16"}
"""What cases have in common where they do not say otherwise."""
MODELS = ("bert-base", "minilm-6", "modernbert-base")
BATCH_SIZES = (128, 64, 32, 256)
PLANNED: Json = {"strategy": "smart"}
TIGHT: Json = {"strategy": "tight"}
PACKED: Json = {"strategy": "dynamic", "padding_free": True}
GROUPED: Json = {"sampling": "group_by_length"}
RANDOM: Json = {"sampling": "random"}

Case = tuple[str, Json]
"""What measures it, see `worker.MEASURE`, and its settings."""


def cases_of(stage: str, quick: bool) -> list[Case]:
    """The cases of a stage."""
    stages = {"feed": feed, "attention": attention, "training": training, "memory": memory, "profile": profile}
    cases = list(stages[stage]())
    if not quick:
        return cases
    small = [(what, _small(case)) for what, case in cases if _is_short(case)]
    return [case for number, case in enumerate(small) if case not in small[:number]]  # some differ in sizes alone


def feed() -> Iterator[Case]:
    """Batches alone."""
    for batch_size in (16, 64, 256):
        for name in ("resident", "streamed", "loader"):
            yield "feed", {"feed": name, "batch_size": batch_size}
        for name in ("resident", "streamed"):
            yield "feed", {"feed": name, "batch_size": batch_size, "packed": True}


def attention() -> Iterator[Case]:
    """Kernels: with dropout as BERT trains, without as ModernBERT does."""
    for batch_size, width, dropout in ((16, 256, 0.1), (16, 256, 0.0), (128, 256, 0.1), (16, 512, 0.1)):
        shape: Json = {"batch_size": batch_size, "width": width, "dropout": dropout, "precision": "bf16"}
        for kernel in ("flash", "efficient", "cudnn", "packed"):
            yield "attention", {**shape, "kernel": kernel, "masked": False}
        for kernel in ("efficient", "cudnn"):
            yield "attention", {**shape, "kernel": kernel, "masked": True}


def training() -> Iterator[Case]:
    """Models; batch sizes; compilation; strategies; precisions."""
    for model in MODELS:
        yield from _beside(ours=(PLANNED, TIGHT, PACKED), trainer=(GROUPED, RANDOM), model=model)
    for batch_size in BATCH_SIZES:
        yield from _beside(ours=(PLANNED, PACKED), trainer=(GROUPED,), batch_size=batch_size)
    yield from _beside(ours=(PLANNED, TIGHT), trainer=(GROUPED, RANDOM), compile=True)
    yield from _beside(ours=(PLANNED,), trainer=(GROUPED,), compile=True, model="minilm-6")
    yield "ours", {**BASE, **PLANNED, "pooled_only": False}
    for model in ("bert-base", "minilm-6"):
        yield "ours", {**BASE, **PLANNED, "model": model, "cast_together": False}
    for max_tokens in (4096, 16384):
        sizes: Json = {"strategy": "budget", "max_tokens": max_tokens}
        for more in ({}, {"padding_free": True}, {"compile": True}):
            yield "ours", {**{key: BASE[key] for key in ("model", "precision")}, **sizes, **more}
    rebalance: Json = {"sampling": "batch_rebalance"}
    yield from _beside(ours=(PLANNED,), trainer=(rebalance, GROUPED), batch_size=64, gradient_accumulation_steps=4)
    yield from _beside(ours=({"strategy": "fixed"}, {"strategy": "dynamic"}), trainer=())
    yield from _beside(ours=(PLANNED, PACKED), trainer=(GROUPED,), precision="fp32")


def _beside(ours: tuple[Json, ...], trainer: tuple[Json, ...], **settings: object) -> Iterator[Case]:
    """Ours and the Trainer's at the same settings."""
    for case in ours:
        yield "ours", {**BASE, **settings, **case}
    for case in trainer:
        yield "trainer", {**BASE, **settings, **case}


def memory() -> Iterator[Case]:
    """Batches of the widest rows."""
    for model in MODELS:
        for batch_size in (16, 64, 128):
            for precision in ("bf16", "fp32"):
                yield "memory", {"model": model, "batch_size": batch_size, "precision": precision}


def profile() -> Iterator[Case]:
    """Where a step's time goes."""
    for case in (
        {**BASE, **PLANNED},
        {**BASE, **PACKED},
        {**BASE, **PLANNED, "model": "minilm-6"},
        {**BASE, **PLANNED, "model": "minilm-6", "compile": True},
        {**BASE, **PACKED, "model": "modernbert-base"},
        {**BASE, **PLANNED, "batch_size": 128},
    ):
        yield "profile", case


def _is_short(case: Json) -> bool:
    """Whether a case is in the short form: of each kind one of some model, none compiled."""
    large = case.get("batch_size", 16) > 16 and "gradient_accumulation_steps" not in case
    other = case.get("model", "bert-base") != "bert-base" and not case.get("padding_free")
    return not (large or other or case.get("width", 0) > 256 or case.get("compile") or case.get("precision") == "fp32")


def _small(case: Json) -> Json:
    """A case at sizes for a CPU."""
    sizes: Json = {"batch_size": 4} if "batch_size" in case else {"max_tokens": 200}
    sizes |= {"width": 32} if "width" in case else {}
    return {**case, **sizes, **({"precision": "fp32"} if "precision" in case else {})}
