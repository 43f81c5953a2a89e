"""The results of the GPU benchmark as one page in Markdown."""

from collections.abc import Callable, Sequence

from ..timing import Json, table

TITLES = {
    "correctness": "Correctness",
    "feed": "Feed: batches on the device, nothing computed on them",
    "attention": "Attention alone, forward and backward, 12 heads of 64",
    "training": "Training",
    "memory": "Peak memory of a step on the widest rows (on a CPU, of the process), and the forecast of `prep info`",
    "profile": "Profile of a training step",
}
TARGETS = """\
Targets on an H200 in bf16: BERT-base 735,000 real tokens/s (40% MFU) and an epoch of the reviews in 12 s, MiniLM-6
3,500,000; 2 times the Trainer's `group_by_length` at batch 16, 1.5 times at 128; a step at most 1.3 times its matrix
products and attention; idle under 3%; no synchronization in a step."""


def page(records: Sequence[Json]) -> str:
    """The page.

    Args:
        records: of one or more devices, as `benchmarks.gpu` writes them: stage, what, case, result, device_name, date.
    """
    parts = ["# Speed on a GPU", TARGETS]
    for device in dict.fromkeys(record["device_name"] for record in records):
        parts.append(f"## {device}")
        mine = [record for record in records if record["device_name"] == device]
        dates = sorted(record["date"][:10] for record in mine)
        versions = ", ".join(f"{name} {version}" for name, version in sorted(mine[-1]["versions"].items()))
        parts.append(f"{dates[0]} to {dates[-1]}; {versions}.")
        for stage, title in TITLES.items():
            found = [record for record in mine if record["stage"] == stage]
            if found:
                parts += [f"### {title}", SECTIONS[stage](found)]
    return "\n\n".join(parts) + "\n"


def _correctness(records: Sequence[Json]) -> str:
    return "\n\n".join(f"`pytest -m cuda`: {record['result']['summary']}" for record in records)


def _feed(records: Sequence[Json]) -> str:
    rows = [
        {
            "feed": record["case"]["feed"] + ", packed" * record["case"].get("packed", False),
            "batch": record["case"]["batch_size"],
            **_numbers(record),
            "million": record["result"].get("tokens_per_second", 0) / 1e6,
        }
        for record in records
    ]
    columns = {"feed": "feed", "batch": "batch", "million": "M real tokens/s", "us_per_batch": "µs per batch"}
    return table(rows, columns)


def _attention(records: Sequence[Json]) -> str:
    rows = [
        {**record["case"], "mask": "yes" if record["case"]["masked"] else "no", **record["result"]}
        for record in records
    ]
    columns = {
        "kernel": "kernel",
        "batch_size": "batch",
        "width": "width",
        "mask": "mask",
        "dropout": "dropout",
        "precision": "precision",
        "us": "µs",
        "tflops_per_second": "TFLOP/s",
    }
    return table(rows, columns)


def _training(records: Sequence[Json]) -> str:
    rows = []
    for record in records:
        case, result = record["case"], record["result"]
        grouped = next((r["result"] for r in records if _is_grouped_peer(r, case)), {})
        base, mine = grouped.get("tokens_per_second"), result.get("tokens_per_second")
        rows.append(
            {
                **case,
                "batch": case.get("batch_size") or f"{case['max_tokens']:,} tokens",
                "who": _who(record),
                **_numbers(record),
                "of_trainer": mine / base if base and mine and record["what"] == "ours" else None,
                "mfu": _percent(result.get("mfu")),
                "padding": _percent(result.get("padding")),
                "spread": _percent(result.get("spread")),
            }
        )
    columns = {
        "model": "model",
        "batch": "batch",
        "precision": "precision",
        "who": "trained by",
        "tokens_per_second": "real tokens/s",
        "spread": "spread",
        "epoch_seconds": "an epoch, s",
        "of_trainer": "x Trainer, group_by_length",
        "model_tflops_per_second": "model TFLOP/s",
        "mfu": "MFU",
        "padding": "padding",
        "peak_gib": "peak, GiB",
    }
    return table(rows, columns)


def _is_grouped_peer(record: Json, case: Json) -> bool:
    """Whether a record is of the Trainer's length-grouped batches at the settings of a case, compiled where that is."""
    same = ("model", "batch_size", "precision", "compile", "gradient_accumulation_steps")
    peer = record["case"]
    return peer.get("sampling") == "group_by_length" and all(peer.get(name) == case.get(name) for name in same)


def _who(record: Json) -> str:
    """The case in words."""
    case = record["case"]
    if record["what"] == "trainer":
        parts = [f"Trainer, {case['sampling']}"]
    else:
        parts = [f"train run, {case['strategy']}"]
        parts += ["padding-free"] * case.get("padding_free", False)
        parts += ["--no-pooled-only"] * (not case.get("pooled_only", True))
        parts += ["weights cast by autocast"] * (not case.get("cast_together", True))
    parts += ["compiled"] * case.get("compile", False)
    steps = case.get("gradient_accumulation_steps", 1)
    parts += [f"{steps} micro-batches"] * (steps > 1)
    not_used = record["result"].get("not_used", {})
    if case.get("padding_free") and "padded_reason" in not_used:
        parts.append(f"(padded: {not_used['padded_reason']})")
    return ", ".join(parts)


def _memory(records: Sequence[Json]) -> str:
    rows = []
    for record in records:
        forecast, peak = record["result"].get("forecast_bytes"), record["result"].get("peak_memory_bytes")
        known = {"forecast": forecast / 2**30, "ratio": peak / forecast} if forecast and peak else {}
        rows.append({**record["case"], **_numbers(record), **known})
    columns = {
        "model": "model",
        "batch_size": "batch",
        "width": "width",
        "precision": "precision",
        "peak_gib": "peak, GiB",
        "forecast": "forecast, GiB",
        "ratio": "peak / forecast",
    }
    return table(rows, columns)


def _profile(records: Sequence[Json]) -> str:
    parts = []
    for record in records:
        case, result = record["case"], record["result"]
        facts = [f"{result['step_ms']:.2f} ms per step"] if "step_ms" in result else ["out of memory"]
        if "idle" in result:
            facts += [
                f"idle {result['idle']:.1%}",
                f"{result['step_over_products']:.2f} times its matrix products and attention",
                f"{result['host_reads_per_step']:g} numbers read by the host per step",
                " ".join(
                    [f"{result['synchronizations_per_step']:g} synchronizations per step", *result["synchronizing"]]
                ),
            ]
        parts.append(f"{case['model']}, batch {case['batch_size']}, {_who(record)}: {'; '.join(facts)}.")
        top = [{**row, "share": _percent(row["share"])} for row in result.get("top", [])]
        columns = {"kernel": "kernel", "ms_per_step": "ms per step", "share": "share"}
        parts.append(table(top, columns) if top else "")
    return "\n\n".join(parts)


def _numbers(record: Json) -> Json:
    """A result's numbers, memory in GiB; where memory was lacking, that."""
    result = record["result"]
    if result.get("out_of_memory"):
        return {"tokens_per_second": None, "peak_gib": "out of memory"}
    peak = result.get("peak_memory_bytes")
    return {**result, "peak_gib": peak / 2**30 if peak else None}


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


SECTIONS: dict[str, Callable[[Sequence[Json]], str]] = {
    "correctness": _correctness,
    "feed": _feed,
    "attention": _attention,
    "training": _training,
    "memory": _memory,
    "profile": _profile,
}
