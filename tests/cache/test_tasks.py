"""Labels other than one class per row, and pairs, through the cache: stored, checked, fed alike by every feed."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import Batch, Cache, CorruptCacheError, InputError, PlanSpec, open_cache
from cache.common.folder import Folder
from cache.format.manifest import Manifest, fingerprint_of
from cache.format.tasks import IGNORED, Task
from cache.writing.publishing import staging
from cache.writing.writer import ShardColumns, write_shard
from tests.helpers.caches import publish_toy, split_info, write_cache

TASKS = (
    Task("classification", ("no", "yes"), pair=True),
    Task("regression", ()),
    Task("regression", (), pair=True),
    Task("multi-label", ("x", "y", "z")),
    Task("token-classification", ("O", "B", "I")),
    Task("token-classification", tuple(map(str, range(300)))),
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
        "token-classification": random.integers(0, len(task.label_names) or 1, int(lengths.sum())),
        "mlm": None,
    }[task.kind]
    if task.per_token:
        labels[random.random(len(labels)) < 0.4] = IGNORED
        labels[: int(lengths[:40].sum())] = IGNORED  # some rows have none
    known = Known(lengths, changes.get("labels", labels), changes.get("firsts", random.integers(1, lengths + 1)))
    with staging(place) as folder:
        infos = []
        for index, part in enumerate(np.array_split(np.arange(200), shards)):
            ids = random.integers(5, 205, int(lengths[part].sum())).astype(np.uint16)
            first = known.firsts[part] if task.pair else None
            ends = np.append(0, np.cumsum(lengths))[[part[0], part[-1] + 1]]
            own = None if known.labels is None else known.labels[slice(*ends) if task.per_token else part]
            columns = ShardColumns(ids, lengths[part], part, own, first)
            infos.append(write_shard(folder, "train", index, columns, task))
        facts = {"fingerprint": fingerprint_of({}), "max_length": 48}
        publish_toy(folder, place, {"train": split_info(lengths, infos)}, task, side, **facts)
    return open_cache(place, verify=True), known


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind}{' pair' * task.pair}")
def test_every_feed_gives_the_labels_and_token_types_that_were_written(tmp_path: Path, task: Task, side: str) -> None:
    """Types of transformers' losses, token types 0 then 1 within each row and 0 in padding, over shards and feeds."""
    cache, known = write(tmp_path / "toy", task, side)
    dtype = torch.int64 if "classification" in task.kind else torch.float32
    for feed in ("direct", "resident", "streamed"):
        for strategy in ("smart", "tight", "dynamic", "fixed"):
            for batch in cache["train"].batches(0, PlanSpec(strategy, 7), feed=feed, gradient_accumulation_steps=2):
                assert ("labels" in batch.model_inputs()) == task.labelled == (batch.labels is not None)
                if batch.labels is not None:
                    assert batch.labels.dtype == dtype
                    expected = known.labels[batch.rows] if not task.per_token else laid_out(known, batch, side)
                    assert torch.equal(batch.labels, torch.as_tensor(expected).to(dtype))
                assert ("token_type_ids" in batch.model_inputs()) == task.pair
                if batch.token_type_ids is None:
                    continue
                assert batch.token_type_ids.dtype == torch.int64
                for row, types in zip(batch.rows, batch.token_type_ids.tolist(), strict=True):
                    own = [0] * known.firsts[row] + [1] * (known.lengths[row] - known.firsts[row])
                    padding = [0] * (len(types) - len(own))
                    assert types == (own + padding if side == "right" else padding + own)


def laid_out(known: Known, batch: Batch, side: str) -> Any:
    """The labels of a batch's tokens one by one, -100 in padding."""
    begins, labels = np.cumsum(known.lengths) - known.lengths, []
    for row in batch.rows:
        own = known.labels[begins[row] : begins[row] + known.lengths[row]].tolist()
        padding = [-100] * (batch.input_ids.shape[1] - len(own))
        labels.append(own + padding if side == "right" else padding + own)
    return np.array(labels)


TAGS = Task("token-classification", ("O", "B", "I"))


@pytest.mark.parametrize("multiple", [1, 8])
def test_shares_of_a_step_count_its_labelled_tokens_over_ranks_and_micro_batches(tmp_path: Path, multiple: int) -> None:
    """They add up to 1, or to 0 in a step without a label; a micro-batch without one has no share."""
    cache, known = write(tmp_path / "toy", TAGS)
    ends = np.append(0, np.cumsum(known.lengths))
    counts = np.array([(known.labels[begin:end] != -100).sum() for begin, end in pairwise(ends)])
    assert cache["train"].label_counts.tolist() == counts.tolist()
    shares: dict[int, float] = {}
    for rank in (0, 1):
        options: Any = {"rank": rank, "world_size": 2, "gradient_accumulation_steps": 3, "pad_to_multiple_of": multiple}
        batches = cache["train"].batches(0, PlanSpec("tight", 5), **options)
        for batch in batches:
            rows = batches.plan.rows[slice(*batches.plan.batch_offsets[batch.step : batch.step + 2])]
            assert batch.targets == counts[batch.rows].sum()
            assert batch.targets == int((batch.labels != -100).sum()) or not len(batch)  # a filler's do not count
            assert batch.step_targets == counts[rows].sum()
            shares[batch.step] = shares.get(batch.step, 0) + batch.loss_weight
    labelled = [counts[rows].sum() > 0 for rows in np.split(batches.plan.rows, batches.plan.batch_offsets[1:-1])]
    assert [shares[step] for step in range(len(labelled))] == pytest.approx(np.array(labelled, float))
    assert not all(labelled)


def test_labels_of_tokens_take_a_byte_where_the_classes_fit_and_two_where_not(tmp_path: Path) -> None:
    """128 classes are the most of a signed byte."""
    for classes, kind in ((128, np.int8), (129, np.int16)):
        cache, known = write(tmp_path / f"{classes}", Task("token-classification", tuple(map(str, range(classes)))))
        assert cache["train"].labels.dtype == kind
        assert np.array_equal(cache["train"].labels, known.labels)
        assert [label for row in cache["train"] for label in row.label] == known.labels.tolist()


def test_a_shard_of_tagged_words_is_these_bytes(tmp_path: Path) -> None:
    """Header and tensors, as docs/format.md has them: labels of a byte behind the ids, -100 as 0x9c."""
    ids, labels = np.array([2, 7, 8, 3, 2, 3], np.uint16), np.array([-100, 2, -100, -100, -100, -100])
    columns = ShardColumns(ids, np.array([4, 2]), np.array([1, 0]), labels)
    info = write_shard(Folder.open(tmp_path), "train", 0, columns, TAGS)
    data = (tmp_path / info.file).read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert data[8 : 8 + size].decode().rstrip() == (
        '{"offsets":{"dtype":"I64","shape":[3],"data_offsets":[0,24]},'
        '"source_rows":{"dtype":"I64","shape":[2],"data_offsets":[24,40]},'
        '"input_ids":{"dtype":"U16","shape":[6],"data_offsets":[40,52]},'
        '"labels":{"dtype":"I8","shape":[6],"data_offsets":[52,58]}}'
    )
    assert data[8 + size + 40 :] == bytes.fromhex("0200 0700 0800 0300 0200 0300 9c 02 9c 9c 9c 9c")


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
    (Task("regression", ()), {"labels": np.full(200, np.nan)}, "not a finite number"),
    (Task("regression", ()), {"labels": np.full(200, np.inf)}, "not a finite number"),
    (Task("multi-label", ("x", "y", "z")), {"labels": np.full((200, 3), 2)}, "neither 0 nor 1"),
    (TAGS, {"labels": np.full(8000, 3)}, "neither -100 nor in 0..2"),
    (TAGS, {"labels": np.full(8000, -1)}, "neither -100 nor in 0..2"),
    (TAGS, {"labels": np.full(8000, -101)}, "neither -100 nor in 0..2"),
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
    (Task("token-classification", ()), "'label_names'"),
    (Task("token-classification", tuple(map(str, range(32769)))), "'label_names'"),
    (Task("token-classification", ("a",), pair=True), "'pair'"),
    (Task("ranking", ()), "'kind'"),
    (Task("classification", ("a",), pair=1), "'pair'"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("task", "named"), MANIFESTS, ids=lambda value: str(value)[:50])
def test_a_task_that_makes_no_sense_is_refused(tmp_path: Path, task: Task, named: str) -> None:
    """The message names the field of the manifest."""
    sound = write_cache(tmp_path / "toy", {"train": 0}).manifest
    with pytest.raises(CorruptCacheError, match=named):
        Manifest.from_bytes(replace(sound, task=task).to_bytes(), tmp_path / "manifest.json")
