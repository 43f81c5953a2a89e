"""The model card: README.md of a fine-tuned model's folder, which the Hugging Face Hub shows and reads.

Everything in it comes from the run's own files: settings, records, the cache's manifest.
"""

import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from cache.common.hub import PACKAGED
from cache.console.output import printable
from cache.console.progress import clock
from cache.console.text import listed
from cache.format.manifest import Manifest
from cache.format.tasks import MLM

from ..metrics.scores import score_title
from ..settings import FREE_ON_RESUME
from .folder import Json, RunInfo
from .records import exported_evaluation

README = "README.md"

PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForMaskedLM": "fill-mask",
}
"""End of a model class's name to the pipeline it is made for."""

METRICS = {
    "f1_micro": "f1",
    "f1_macro": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Scores that the Hub calls otherwise."""

LABELS_SHOWN = 50


def model_card(name: str, info: RunInfo, config: PretrainedConfig, manifest: Manifest, records: Sequence[Json]) -> str:
    """The text of the card of the model called `name`; `records` are of the run's epochs and evaluations, as
    `joined_records` gives them."""
    task = pipeline_of(config)
    front = _front_matter(name, info, task, manifest, exported_evaluation(records, info.settings))
    parts = [
        f"---\n{front}\n---\n",
        f"# {_plain(name)}\n",
        f"{_base(info)}, fine-tuned with lengthwise on the cache {_code(info.cache_name)}: {_task(info, manifest)}.\n",
        "## How to use it\n",
        _usage(task, config, manifest),
        "## Results\n",
        _results(records, info, manifest),
        "## How it was trained\n",
        _table([("", ""), *_facts(info, manifest, records)]),
        "### Settings\n",
        _table([("setting", "value"), *_settings(info)]),
    ]
    return "\n".join(parts)


def pipeline_of(config: PretrainedConfig) -> str | None:
    """The pipeline of transformers that a model is made for, None if that is not known."""
    classes = config.architectures or []
    return next((task for end, task in PIPELINES.items() if any(name.endswith(end) for name in classes)), None)


def _front_matter(name: str, info: RunInfo, task: str | None, manifest: Manifest, scores: Json | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    source, trained_for, scores = manifest.source, str(info.settings.task), scores or {}
    dataset = str(source["dataset"]) if source.get("kind") == "hub" else None
    results = [
        EvalResult(
            task_type=task or trained_for,
            dataset_type=dataset or info.cache_name,
            dataset_name=info.cache_name,
            dataset_split=scores["split"],
            metric_type=METRICS.get(score, score),
            metric_name=score_title(score),
            metric_value=value,
        )
        for score, value in _scores(scores)
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        base_model=_hub_id(info),
        datasets=[dataset] if dataset else None,
        tags=["lengthwise", trained_for],
        metrics=list(dict.fromkeys(METRICS.get(name, name) for name, _ in _scores(scores) if name != "loss")) or None,
        eval_results=results or None,
        model_name=name,
    )
    return str(data.to_yaml(line_break="\n"))


def _scores(record: Json) -> Iterable[tuple[str, float]]:
    """Name and value of each score of an evaluation; those without a value are left out."""
    for name, value in record.items():
        if name not in ("kind", "step", "epoch", "rows") and isinstance(value, int | float):
            yield name, value


def _hub_id(info: RunInfo) -> str | None:
    """The base model, if it is one of the Hub; a folder means nothing elsewhere."""
    name = str(info.settings.model)
    return None if name == PACKAGED or Path(name).is_absolute() else name


def _base(info: RunInfo) -> str:
    return _code(_hub_id(info) or Path(str(info.settings.model)).name)


def _task(info: RunInfo, manifest: Manifest) -> str:
    task, pairs = manifest.task, " of pairs of texts" * manifest.task.pair
    if info.settings.task == MLM:  # which a cache with labels serves as well
        return f"masked language modelling{pairs}"
    labels = f", labels {listed(list(map(_code, task.label_names)), LABELS_SHOWN)}" if task.label_names else ""
    return f"{task.kind}{pairs}{labels}"


def _usage(task: str | None, config: PretrainedConfig, manifest: Manifest) -> str:
    truncated = f"Texts were truncated to {manifest.max_length:,} tokens in training, special tokens included.\n"
    if task is None:
        names = ", ".join(map(_code, config.architectures or [])) or "not recorded"
        return f"Load it with `from_pretrained` of its class ({names}); no pipeline for it is known. {truncated}"
    example = '"A text of your own."'
    if task == "fill-mask":
        example = 'f"A text with a {model.tokenizer.mask_token} in it."'
    elif manifest.task.pair:
        example = '{"text": "The first text.", "text_pair": "The second text."}'
    options = f", truncation=True, max_length={manifest.max_length}" if task == "text-classification" else ""
    if task == "text-classification" and manifest.task.kind == "multi-label":
        options += ", top_k=None"
    # Of the tokens of a word only the first has a tag in training.
    words = ', aggregation_strategy="first"' if task == "token-classification" else ""
    return f'''```python
from transformers import pipeline

model = pipeline("{task}", model="path/to/this/folder"{words})  # or its name on the Hub
print(model({example}{options}))
```

{truncated}'''


def _results(records: Sequence[Json], info: RunInfo, manifest: Manifest) -> str:
    """What came of each epoch and evaluation, as a table."""
    evaluations = [record for record in records if record["kind"] == "eval"]
    by_step = {record["step"]: record for record in evaluations}
    epochs = {record["step"]: record for record in records if record["kind"] == "epoch"}
    names = [name for name, _ in _scores(evaluations[-1])] if evaluations else []
    titles = [f"eval {name}" if name == "loss" else score_title(name) for name in names]
    rows = [("epoch", "step", "train loss", *titles, "padding", "training time")]
    for step in sorted(epochs.keys() | by_step.keys()):
        epoch, scores = epochs.get(step, {}), by_step.get(step, {})
        numbers = [epoch.get("loss"), *(scores.get(name) for name in names)]
        padding = f"{epoch['padded_tokens'] / max(epoch['real_tokens'], 1) - 1:.1%}" if epoch else ""
        time = clock(epoch["seconds"]) if "seconds" in epoch else ""
        rows.append((str(epoch.get("epoch", "")), f"{step:,}", *map(_number, numbers), padding, time))
    lines = [_table(rows)]
    if evaluations:
        more = f" and every {info.settings.eval_steps:,} steps" if info.settings.eval_steps else ""
        lines.append(f"Evaluated on {_rows(evaluations[-1], manifest)} after each epoch{more}.\n")
    best = exported_evaluation(evaluations, info.settings)
    if best and info.settings.keep_best:
        step = f", step {best['step']:,}" if info.settings.eval_steps else ""
        lines.append(
            f"The model is that of epoch {best['epoch']}{step}, the best by {_code(info.settings.keep_best)}.\n"
        )
    final = exported_evaluation(records, info.settings)
    if final and final["kind"] == "test":
        found = ", ".join(f"{score_title(name)} {_number(value)}" for name, value in _scores(final))
        lines.append(f"On {_rows(final, manifest)}, evaluated once at the end: {found}.\n")
    return "\n".join(lines)


def _rows(evaluation: Json, manifest: Manifest) -> str:
    split = manifest.splits.get(evaluation["split"])
    total = f" of the {split.rows:,}" if split else ""
    return f"{evaluation['rows']:,}{total} rows of split {_code(evaluation['split'])}"


def _facts(info: RunInfo, manifest: Manifest, records: Sequence[Json]) -> Iterable[tuple[str, str]]:
    settings, environment = info.settings, info.environment
    size = f"{settings.max_tokens:,} tokens" if settings.batch_size is None else f"{settings.batch_size} rows"
    epochs = [record for record in records if record["kind"] == "epoch"]
    rows, real, padded = (sum(record[name] for record in epochs) for name in ("rows", "real_tokens", "padded_tokens"))
    yield "base model", f"{_base(info)}, sha256 {info.model_digest}"
    yield "cache", f"{_code(info.cache_name)}, fingerprint {info.cache_fingerprint}"
    yield "data", _plain(_source(manifest.source))
    yield "tokenizer", f"{_plain(Path(manifest.tokenizer.name).name)}, sha256 {manifest.tokenizer.sha256}"
    yield "plan", f"strategy {settings.strategy}, {size} a step, seed {settings.plan_seed}"
    if real and rows:
        saved = 1 - padded / (rows * info.max_length)
        yield (
            "padding",
            f"{real:,} real tokens, {padded:,} computed: {padded / real - 1:.1%} padding, "
            f"{saved:.1%} less than with every row padded to {info.max_length}",
        )
    yield "steps", f"{epochs[-1]['step'] if epochs else info.total_steps:,}"  # fewer where --early-stopping ended it
    yield "device", _plain(str(environment.get("device")))
    versions = {"lengthwise": _version(), **{name: environment.get(name) for name in ("torch", "transformers")}}
    versions["Python"] = platform.python_version()
    yield "versions", ", ".join(f"{name} {found}" for name, found in versions.items() if found)


def _source(source: Json) -> str:
    """Where the text came from. Of files only the names are told, not where they lay on one machine."""
    if source.get("kind") == "hub":
        config = f", configuration {source['config']}" if source.get("config") else ""
        return f"Hub dataset {source['dataset']}{config}, revision {source['revision']}"
    given = source.get("argument", "")
    if source.get("kind") == "package":
        return f"{given} from the package {source['package']}"
    names = [Path(str(argument)).name for argument in (given if isinstance(given, list) else [given])]
    return ", ".join(filter(None, names)) or "given from Python"


def _settings(info: RunInfo) -> Iterable[tuple[str, str]]:
    for name, value in info.settings.to_json().items():
        if name not in FREE_ON_RESUME | {"model"} and value is not None:  # the table above names the model
            yield name, _plain(str(value))


def _version() -> str | None:
    try:
        return version("lengthwise")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return None


def _code(text: str) -> str:
    """A name as code in Markdown, whatever it holds."""
    text = printable(" ".join(text.split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))  # a run of as many would end the span
    return f"{fence} {text} {fence}" if "`" in text or not text else f"{fence}{text}{fence}"


def _plain(text: str) -> str:
    """Foreign text in a line of Markdown: no HTML, code span, link or emphasis. `_table` escapes the `|` itself."""
    return re.sub(r"[\\`*_\[\]<&#~$]", r"\\\g<0>", printable(" ".join(text.split())))


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    columns = lines[0].count("|") - 1
    return "\n".join([lines[0], "|" + " --- |" * columns, *lines[1:]]) + "\n"
