"""Tiny models, made on the spot."""

import shutil
from pathlib import Path
from typing import Any

import torch


def write_model(folder: Path, *, seed: int = 0, classes: int | None = None, kind: str = "bert", **config: Any) -> Path:
    """A random encoder of 2 layers, width 32, for the 205 tokens of `toys.write_tokenizer`, saved as a folder.

    With `classes` it is saved as a classifier of so many classes.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    from train.models.heads import quiet_transformers

    sizes = {
        "vocab_size": 205,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
    }
    settings = AutoConfig.for_model(kind, **{**sizes, **config})
    torch.manual_seed(seed)
    with quiet_transformers():
        if classes is None:
            model = AutoModel.from_config(settings)
        else:
            settings.num_labels = classes
            model = AutoModelForSequenceClassification.from_config(settings)
        model.save_pretrained(folder)
    return folder


def resume_from_first_checkpoint(run: Path) -> None:
    """Let a finished run go on as one that died behind its first checkpoint."""
    from train.run import resume_run

    for path in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    (run / "summary.json").unlink()
    resume_run(run, {}, lambda text: None, lambda text: None, quiet=True)


def check_same_run(one: Path, other: Path) -> None:
    """Metrics and weights of two runs are equal to the byte."""
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
