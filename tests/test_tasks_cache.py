"""Labels other than one class a row, and pairs, through the cache: stored, checked, fed alike by every feed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import CorruptCacheError, InputError, PlanSpec
from cache.format import Manifest, SplitInfo, Task, TokenizerInfo, fingerprint_of
from cache.reader import Cache, open_cache
from cache.writer import file_info, publish, staging, write_manifest, write_shard
from tests.toys import write_tokenizer

TASKS = (
    Task("classification", ("no", "yes"), pair=True),
    Task("regression", ()),
    Task("regression", (), pair=True),
    Task("multi-label", ("x", "y", "z")),
    Task("mlm", ()),
    Task("mlm", (), pair=True),
)


@dataclass(frozen=True)
class Known:
    """What was written: lengths, labels and first lengths of each row."""

    lengths: Any
    labels: Any
    firsts: Any


def write(place: Path, task: Task, side: str = "right", shards: int = 3, **changes: Any) -> tuple[Cache, Known]:
    """200 rows of random ids in some shards; `changes` replace labels or firsts."""
    random = np.random.default_rng(0)
    lengths = np.sort(random.integers(3, 40, 200))
    labels = {
        "classification": random.integers(0, 2, 200),
        "regression": random.normal(size=200).astype(np.float32),
        "multi-label": random.integers(0, 2, (200, 3)),
        "mlm": None,
    }[task.kind]
    known = Known(lengths, changes.get("labels", labels), changes.get("firsts", random.integers(1, lengths + 1)))
    with staging(place) as folder:
        write_tokenizer(folder / "tokenizer")
        files = tuple(file_info(path) for path in sorted((folder / "tokenizer").iterdir()))
        infos = []
        for index, part in enumerate(np.array_split(np.arange(200), shards)):
            ids = random.integers(5, 205, int(lengths[part].sum())).astype(np.uint16)
            first = known.firsts[part] if task.pair else None
            own = None if known.labels is None else known.labels[part]
            infos.append(write_shard(folder, "train", index, ids, lengths[part], part, own, task, first))
        histogram = tuple(np.bincount(lengths).tolist())
        split = SplitInfo(200, int(lengths.sum()), int(lengths[0]), int(lengths[-1]), histogram, tuple(infos))
        tokenizer = TokenizerInfo("toy", None, files[0].sha256, 205, 0, side, files)
        plan = {"strategy": "smart", "batch_size": 8, "max_tokens": None, "seed": 0}
        digest = fingerprint_of({})
        manifest = Manifest("toy", digest, {"argument": "toy"}, tokenizer, 48, task, plan, {"train": split})
        write_manifest(folder, manifest)
        publish(folder, place)
    return open_cache(place, verify=True), known


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind}{' pair' * task.pair}")
def test_every_feed_gives_the_labels_and_token_types_that_were_written(tmp_path: Path, task: Task, side: str) -> None:
    """Types of transformers' losses, token types 0 then 1 within each row and 0 in padding, over shards and feeds."""
    cache, known = write(tmp_path / "toy", task, side)
    dtype = torch.int64 if task.kind == "classification" else torch.float32
    for feed in ("direct", "resident", "streamed"):
        for strategy in ("smart", "tight", "dynamic", "fixed"):
            for batch in cache["train"].batches(0, PlanSpec(strategy, 7), feed=feed, accumulation=2):
                assert ("labels" in batch.model_inputs()) == task.labelled == (batch.labels is not None)
                if batch.labels is not None:
                    assert batch.labels.dtype == dtype
                    assert torch.equal(batch.labels, torch.as_tensor(known.labels[batch.rows]).to(dtype))
                assert ("token_type_ids" in batch.model_inputs()) == task.pair
                if batch.token_type_ids is None:
                    continue
                assert batch.token_type_ids.dtype == torch.int64
                for row, types in zip(batch.rows, batch.token_type_ids.tolist(), strict=True):
                    own = [0] * known.firsts[row] + [1] * (known.lengths[row] - known.firsts[row])
                    padding = [0] * (len(types) - len(own))
                    assert types == (own + padding if side == "right" else padding + own)


def test_a_row_has_its_label_and_first_length(tmp_path: Path) -> None:
    """As plain Python values, and as columns of the split."""
    cache, known = write(tmp_path / "pairs", Task("regression", (), pair=True))
    split = cache["train"]
    assert [row.label for row in split] == known.labels.tolist() == split.labels.tolist()
    assert [row.first_length for row in split] == known.firsts.tolist() == split.first_lengths.tolist()
    sets, known = write(tmp_path / "sets", Task("multi-label", ("x", "y", "z")))
    assert [row.label for row in sets["train"]] == known.labels.tolist()
    assert all(row.first_length is None for row in sets["train"])


def test_a_cache_without_labels_says_so(tmp_path: Path) -> None:
    """Its shards have no such tensor; asking for labels names the way to some."""
    cache, _ = write(tmp_path / "plain", Task("mlm", ()))
    split = cache["train"]
    assert set(split.shard(0)) == {"input_ids", "offsets", "source_rows"}
    assert all(row.label is None for row in split)
    with pytest.raises(InputError, match=r"holds no labels.*prep build SOURCE --label COLUMN"):
        _ = split.labels


BAD = [
    (Task("regression", ()), {"labels": np.full(200, np.nan)}, "no finite number"),
    (Task("regression", ()), {"labels": np.full(200, np.inf)}, "no finite number"),
    (Task("multi-label", ("x", "y", "z")), {"labels": np.full((200, 3), 2)}, "neither 0 nor 1"),
    (Task("classification", ("a", "b"), pair=True), {"firsts": np.full(200, 41)}, "longer than its row"),
    (Task("classification", ("a", "b"), pair=True), {"firsts": np.full(200, -1)}, "longer than its row"),
]


@pytest.mark.parametrize(("task", "changes", "complaint"), BAD, ids=[complaint for _, _, complaint in BAD])
def test_unsound_labels_are_refused(tmp_path: Path, task: Task, changes: dict[str, Any], complaint: str) -> None:
    """When the cache is verified, and when a row of the shard is first wanted."""
    with pytest.raises(CorruptCacheError, match=complaint):
        write(tmp_path / "toy", task, **changes)
    with pytest.raises(CorruptCacheError, match=complaint):
        next(iter(open_cache(tmp_path / "toy")["train"].batches()))


MANIFESTS = [
    (Task("regression", ("a",)), "'label_names'"),
    (Task("mlm", ("a",)), "'label_names'"),
    (Task("multi-label", ()), "'label_names'"),
    (Task("multi-label", tuple(map(str, range(4097)))), "'label_names'"),
    (Task("ranking", ()), "'kind'"),
    (Task("classification", ("a",), pair=1), "'pair'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("task", "named"), MANIFESTS, ids=lambda value: str(value)[:50])
def test_a_task_that_makes_no_sense_is_refused(tmp_path: Path, task: Task, named: str) -> None:
    """The message names the field of the manifest."""
    tokenizer = TokenizerInfo("toy", None, "0" * 64, 205, 0, "right", ())
    plan = {"strategy": "smart", "batch_size": 8, "max_tokens": None, "seed": 0}
    manifest = Manifest("toy", "0" * 64, {}, tokenizer, 48, task, plan, {})
    tokenizer_file = {"file": "tokenizer.json", "bytes": 1, "sha256": "0" * 64}
    data = manifest.to_bytes()
    from cache.sealed import seal, unseal

    raw = unseal(data, tmp_path, "lengthwise-cache", 1)
    raw["tokenizer"]["files"] = [tokenizer_file]
    with pytest.raises(CorruptCacheError, match=named):
        Manifest.from_bytes(seal(raw), tmp_path / "manifest.json")
