"""Small corpora of every task whose labels can be learned, and runs on them."""

from pathlib import Path
from typing import Any

import numpy as np

from cache import Cache
from train.settings import Settings

from .builds import build_toy
from .corpora import WORDS
from .files import write_jsonl
from .models import write_model
from .runs import start

TAGS = ("O", "B-LOC", "B-PER", "I-PER")


def rows_of(kind: str) -> list[dict[str, Any]]:
    """60 rows of a kind: pairs, regression, multi-label or token-classification."""
    return tagged_sentences() if kind == "token-classification" else labelled_texts(kind)


def labelled_texts(kind: str) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        held = random.random(3) < 0.5
        text = " ".join([*random.choice(WORDS[3:], random.integers(1, 15)), *np.array(WORDS[:3])[held]])
        row: dict[str, Any] = {"text": text, "second": " ".join(random.choice(WORDS, random.integers(1, 15)))}
        row["label"] = {
            "pairs": ["no", "yes"][int(held[0])],
            "regression": held.sum() / 3,
            "multi-label": [name for name, yes in zip("xyz", held, strict=True) if yes],
        }[kind]
        rows.append(row)
    return rows


def tagged_sentences() -> list[dict[str, list[str]]]:
    """Tags follow from the words; some sentences have no words."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        words = random.choice(WORDS, random.integers(0, 20)).tolist()
        numbers = [int(word[4:]) % 8 for word in words]
        tags = ["B-LOC" if number == 0 else "B-PER" if number == 1 else "O" for number in numbers]
        for index, (before, number) in enumerate(zip(tags, numbers[1:], strict=False), 1):
            tags[index] = "I-PER" if number > 4 and before != "O" else tags[index]
        rows.append({"tokens": [f"{word} {word}" if word.endswith("3") else word for word in words], "tags": tags})
    return rows


def build_task(kind: str, folder: Path) -> Cache:
    """A cache of `rows_of(kind)`, 30% of them held out."""
    options: dict[str, Any] = {"pairs": {"text_pair": "second"}, "token-classification": {"max_length": 24}}.get(
        kind, {}
    )
    return build_toy(write_jsonl(folder / f"{kind}.jsonl", rows_of(kind)), folder, holdout=0.3, **options).cache


def task_settings(cache: Cache, out: Path, **more: Any) -> Settings:
    """Two epochs with dropout and accumulation, of a model that lies near the cache."""
    model = cache.folder.parent.parent / "model"
    if not model.exists():
        write_model(model)
    common = {"epochs": 2, "gradient_accumulation_steps": 2, "precision": "fp32", "batch_size": 8, "lr": 1e-3}
    if cache.manifest.task.per_token:
        common |= {"lr": 2e-2, "strategy": "tight"}
    return Settings(**{"cache": str(cache.folder), "model": str(model), "out": str(out), **common, **more})


def train_task(cache: Cache, out: Path, **more: Any) -> Path:
    """A finished run, its folder `out`."""
    return start(task_settings(cache, out, **more))
