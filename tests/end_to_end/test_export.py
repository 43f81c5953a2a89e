"""`to_dataset`: a split as transformers' own tools take it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import InputError
from cache.reading.gather import padded_rows
from prep import build_cache, to_dataset

from ..helpers.builds import ids_by_transformers
from ..helpers.caches import write_cache
from ..helpers.corpora import toy_rows
from ..helpers.tokenizers import write_tokenizer

ROWS = toy_rows(50)
TEXTS = [text for text, _ in ROWS]


def built(tmp_path: Path, labels: list[Any], **settings: Any) -> Any:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    options = {"name": "a", "out": tmp_path, "tokenizer": str(tokenizer), "epochs": 1, "quiet": True, **settings}
    return build_cache(TEXTS, labels, **options)["train"]


def test_ids_are_those_of_transformers_and_labels_keep_their_names(tmp_path: Path) -> None:
    split = built(tmp_path, [label for _, label in ROWS])
    data = to_dataset(split)
    assert data.column_names == ["input_ids", "labels", "source_row"]
    assert data.split == "train"
    assert data.features["labels"].names == ["neg", "pos"]
    expected = ids_by_transformers(TEXTS, tmp_path / "tokenizer")
    lengths = [len(ids) for ids in data["input_ids"]]
    assert lengths == sorted(lengths)
    for row in data:
        assert row["input_ids"] == expected[row["source_row"]]
        assert data.features["labels"].int2str(row["labels"]) == ROWS[row["source_row"]][1]


def test_pairs_have_the_token_types_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    seconds = TEXTS[::-1]
    data = to_dataset(built(tmp_path, [0, 1] * 25, text_pairs=seconds))
    assert data.column_names == ["input_ids", "token_type_ids", "labels", "source_row"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for row in data:
        wanted = tokenizer(TEXTS[row["source_row"]], seconds[row["source_row"]])
        assert row["input_ids"] == wanted["input_ids"]
        assert row["token_type_ids"] == wanted["token_type_ids"]


def test_a_collator_pads_it_to_the_split_s_own_batch(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, DataCollatorWithPadding

    split = built(tmp_path, [label for _, label in ROWS])
    collate = DataCollatorWithPadding(AutoTokenizer.from_pretrained(tmp_path / "tokenizer"))
    batch = collate([dict(row) for row in to_dataset(split).select(range(20, 28))])
    widest = int(split.lengths[27])
    rows = np.arange(20, 28)
    assert np.array_equal(batch["input_ids"].numpy(), padded_rows(split, rows, split.lengths[rows], widest))
    assert batch["labels"].tolist() == split.labels[20:28].tolist()
    assert batch["attention_mask"].sum(dim=1).tolist() == split.lengths[20:28].tolist()


@pytest.mark.parametrize("labels", [[number / 4 for number in range(50)], [[0], [1, 2], [], [2], [0, 1]] * 10])
def test_numbers_and_sets_of_classes_are_floats_as_losses_take_them(tmp_path: Path, labels: list[Any]) -> None:
    import torch

    split = built(tmp_path, labels)
    data = to_dataset(split).with_format("torch")
    assert data["labels"][:].dtype == torch.float32
    assert np.array_equal(data["labels"][:].numpy(), split.labels)


def test_all_shards_follow_each_other_and_ids_are_not_copied(tmp_path: Path) -> None:
    split = write_cache(tmp_path / "a", {"train": 40}, shards=3)["train"]
    data = to_dataset(split)
    assert [row["input_ids"] for row in data] == [row.input_ids.tolist() for row in split]
    assert data["source_row"][:] == split.source_rows.tolist()
    chunks = data.data.column("input_ids").chunks
    mapped = [split.shard(index)["input_ids"].ctypes.data for index in range(3)]
    assert [chunk.values.buffers()[1].address for chunk in chunks] == mapped


def test_the_same_split_has_the_same_fingerprint_and_maps_and_saves(tmp_path: Path) -> None:
    import datasets

    split = write_cache(tmp_path / "a", {"train": 10, "test": 0}).__getitem__
    data = to_dataset(split("train"))
    assert data._fingerprint == to_dataset(split("train"))._fingerprint != to_dataset(split("test"))._fingerprint
    assert len(to_dataset(split("test"))) == 0
    data.map(lambda row: {"length": len(row["input_ids"])}).save_to_disk(tmp_path / "saved")
    assert datasets.load_from_disk(tmp_path / "saved")["length"][:] == split("train").lengths.tolist()


def test_large_vocabularies_have_larger_ids(tmp_path: Path) -> None:
    split = write_cache(tmp_path / "a", {"train": 10}, vocab_size=100_000)["train"]
    data = to_dataset(split)
    assert data.features["input_ids"].feature.dtype == "uint32"
    assert data[9]["input_ids"] == split[9].input_ids.tolist()


def test_without_datasets_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = write_cache(tmp_path / "a", {"train": 3})["train"]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        to_dataset(split)
