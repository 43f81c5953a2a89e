"""One epoch of padded batches as each library serves it: `python -m benchmarks.feed_peers PEER CACHE DEVICE`.

A worker opens its store (made from the cache's own rows, sorted by length), then answers requests for an epoch at a
batch size. All deliver int64 ids, int64 mask and labels on the device. Where the library can fetch any rows, the
batches are those of the plan; a reader of contiguous rows gets its own best case, slices in random order.

Shapes: B rows of a batch, W columns.
"""

import sys
import time
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import PlanSpec, Split, open_cache
from cache.reading.padding import row_mask

from .checks import BatchDigest
from .timing import ROOT, WORK, Json, serve

Tensors = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]
"""(B, W) ids, (B, W) mask or None, (B,) labels."""
Epoch = Callable[[int], Iterator[Tensors]]
"""epoch(batch_size) iterates one epoch's batches."""

PAD_ID = 0


class Setting:
    """What every peer is given: the rows, the plan's batches, a folder of its own, the device."""

    def __init__(self, peer: str, cache: Path, device: str) -> None:
        self.cache = open_cache(cache)
        self.split: Split = self.cache["train"]
        self.device = torch.device(device)
        self.folder = WORK / "feed" / self.cache.manifest.fingerprint[:12] / peer
        self._plans: dict[int, list[np.ndarray]] = {}

    def planned(self, batch_size: int) -> list[np.ndarray]:
        """The plan's batches, (B,) row numbers each."""
        if batch_size not in self._plans:
            plan = self.split.plan(PlanSpec("smart", batch_size), 0)
            self._plans[batch_size] = [plan.rows[a:b].astype(np.int64) for a, b in pairwise(plan.batch_offsets)]
        return self._plans[batch_size]

    def slices(self, batch_size: int) -> list[tuple[int, int]]:
        """Contiguous slices that cover the split, in random order."""
        starts = np.random.default_rng(0).permutation(np.arange(0, len(self.split), batch_size))
        return [(int(start), min(int(start) + batch_size, len(self.split))) for start in starts]

    def tensors(self, ids: np.ndarray, mask: np.ndarray, labels: np.ndarray) -> Tensors:
        """numpy arrays of any integer type as int64 tensors on the device."""
        return tuple(torch.from_numpy(np.asarray(part, np.int64)).to(self.device) for part in (ids, mask, labels))  # type: ignore[return-value]

    def pad(self, rows: list[np.ndarray], labels: Any) -> Tensors:
        """Pad rows that came one by one: the ids in one vectorized step."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        mask = row_mask(lengths, int(lengths.max()))
        ids = np.full(mask.shape, PAD_ID, np.int64)
        ids[mask] = np.concatenate(rows)
        return self.tensors(ids, mask, labels)


# --- ours


def ours(setting: Setting, always_mask: bool = True) -> Epoch:
    """`split.batches`, the plan read anew each epoch; `train run` takes masks only where rows are shorter."""

    def epoch(batch_size: int) -> Iterator[Tensors]:
        spec = PlanSpec("smart", batch_size)
        for batch in setting.split.batches(0, spec, device=setting.device, always_mask=always_mask):
            yield batch.input_ids, batch.attention_mask, batch.labels

    for batch_size in (16, 32, 64):
        setting.split.try_keep_plan(PlanSpec("smart", batch_size), 1)
    return epoch


# --- Hugging Face datasets


def _arrow_table(setting: Setting) -> Any:
    """The rows as a saved `datasets.Dataset`, sorted by length."""
    import datasets

    folder = setting.folder.parent / "arrow"
    if not folder.exists():
        rows = list(setting.split)
        columns = {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.label for row in rows],
        }
        kinds = {"input_ids": datasets.List(datasets.Value("int32")), "labels": datasets.Value("int64")}
        datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).save_to_disk(folder)
    return datasets.load_from_disk(str(folder))


def loader(setting: Setting, workers: int = 0) -> Epoch:
    """torch's DataLoader with transformers' DataCollatorWithPadding over a `datasets` table."""
    from transformers import AutoTokenizer, DataCollatorWithPadding

    rows = _arrow_table(setting)
    collate = DataCollatorWithPadding(AutoTokenizer.from_pretrained(setting.cache.tokenizer_folder))
    loaders: dict[int, Any] = {}

    def epoch(batch_size: int) -> Iterator[Tensors]:
        if batch_size not in loaders:
            loaders.clear()  # ends the workers of another batch size
            batches = [rows.tolist() for rows in setting.planned(batch_size)]
            loaders[batch_size] = torch.utils.data.DataLoader(
                rows,
                batch_sampler=batches,
                collate_fn=collate,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=setting.device.type != "cpu",
            )
        for batch in loaders[batch_size]:
            keys = ("input_ids", "attention_mask", "labels")
            yield tuple(batch[key].to(setting.device, non_blocking=True) for key in keys)

    return epoch


def numpy_format(setting: Setting) -> Epoch:
    """`datasets` in numpy format, sorted on disk, contiguous slices, padded in one vectorized step."""
    rows = _arrow_table(setting).with_format("numpy")

    def epoch(batch_size: int) -> Iterator[Tensors]:
        for start, end in setting.slices(batch_size):
            part = rows[start:end]
            yield setting.pad(list(part["input_ids"]), part["labels"])

    return epoch


def arrow(setting: Setting) -> Epoch:
    """The Arrow table under `datasets`, sorted on disk, contiguous slices, no Python object for a row."""
    table = _arrow_table(setting).data.table.combine_chunks()

    def epoch(batch_size: int) -> Iterator[Tensors]:
        for start, end in setting.slices(batch_size):
            yield _pad_arrow(setting, table.slice(start, end - start))

    return epoch


def arrow_planned(setting: Setting) -> Epoch:
    """The same for the plan's batches: a slice where a batch is contiguous, its rows taken one by one where not."""
    table = _arrow_table(setting).data.table.combine_chunks()

    def epoch(batch_size: int) -> Iterator[Tensors]:
        for rows in setting.planned(batch_size):
            first, count = int(rows[0]), len(rows)
            yield _pad_arrow(setting, table.slice(first, count) if rows[-1] - first == count - 1 else table.take(rows))

    return epoch


def _pad_arrow(setting: Setting, part: Any) -> Tensors:
    ids, labels = part["input_ids"].chunk(0), part["labels"].chunk(0)
    lengths = np.diff(ids.offsets.to_numpy())
    mask = row_mask(lengths, int(lengths[-1]))
    padded = np.full(mask.shape, PAD_ID, np.int64)
    padded[mask] = ids.flatten().to_numpy()
    return setting.tensors(padded, mask, labels.to_numpy())


# --- streaming libraries


def mds(setting: Setting) -> Epoch:
    """MosaicML Streaming, local, rows fetched by number."""
    sys.path.append(str(ROOT / ".peers"))
    _stand_in_for_torchvision()
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    if not (setting.folder / "index.json").exists():
        with MDSWriter(out=str(setting.folder), columns={"ids": "ndarray:uint16", "label": "int"}) as writer:
            for row in setting.split:
                writer.write({"ids": np.array(row.input_ids), "label": row.label})
    clean_stale_shared_memory()
    return _by_number(setting, StreamingDataset(local=str(setting.folder), shuffle=False, batch_size=16))


def litdata(setting: Setting) -> Epoch:
    """LitData, local, rows fetched by number."""
    sys.path.append(str(ROOT / ".peers"))
    import litdata

    if not (setting.folder / "index.json").exists():
        source = str(setting.cache.folder)
        items = [(source, row) for row in range(len(setting.split))]
        litdata.optimize(litdata_row, items, str(setting.folder), num_workers=1, chunk_bytes="64MB", verbose=False)
    return _by_number(setting, litdata.StreamingDataset(str(setting.folder), shuffle=False))


_open_splits: dict[str, Split] = {}


def litdata_row(item: tuple[str, int]) -> dict[str, Any]:
    """One row for `litdata.optimize`, which calls this in a process of its own."""
    source, number = item
    if source not in _open_splits:
        _open_splits[source] = open_cache(source)["train"]
    row = _open_splits[source][number]
    return {"ids": np.array(row.input_ids), "label": row.label}


def _by_number(setting: Setting, rows: Any) -> Epoch:
    def epoch(batch_size: int) -> Iterator[Tensors]:
        for batch in setting.planned(batch_size):
            found = [rows[number] for number in batch.tolist()]
            yield setting.pad([row["ids"] for row in found], np.array([row["label"] for row in found]))

    return epoch


def _stand_in_for_torchvision() -> None:
    """Streaming imports torchvision, which only its image encodings use: empty modules do for rows of ids."""
    functional = "torchvision.transforms.functional"
    for name in ("torchvision", "torchvision.transforms", functional, "torchvision.datasets"):
        module: Any = types.ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        sys.modules[name] = module
    sys.modules[functional].to_tensor = None  # type: ignore[attr-defined]
    sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]


# --- the tutorial


def tutorial(setting: Setting) -> Epoch:
    """McCormick's notebook: lists of ids in memory, padded row by row."""
    ids = [row.input_ids.tolist() for row in setting.split]
    labels = setting.split.labels.tolist()

    def epoch(batch_size: int) -> Iterator[Tensors]:
        for batch in setting.planned(batch_size):
            numbers = batch.tolist()
            width = max(len(ids[number]) for number in numbers)
            padded = [ids[number] + [PAD_ID] * (width - len(ids[number])) for number in numbers]
            masks = [[1] * len(ids[number]) + [0] * (width - len(ids[number])) for number in numbers]
            parts = (padded, masks, [labels[number] for number in numbers])
            yield tuple(torch.tensor(part).to(setting.device) for part in parts)  # type: ignore[misc]

    return epoch


PEERS: dict[str, Callable[[Setting], Epoch]] = {
    "ours": ours,
    "ours_without_mask": lambda setting: ours(setting, always_mask=False),
    "arrow": arrow,
    "arrow_planned": arrow_planned,
    "numpy": numpy_format,
    "loader": loader,
    "loader_2": lambda setting: loader(setting, workers=2),
    "mds": mds,
    "litdata": litdata,
    "tutorial": tutorial,
}


def run_epochs(epoch: Epoch, batch_size: int, device: torch.device) -> Json:
    """Time whole epochs, one after the other until half a second has passed; all numbers are those of one epoch."""
    count = padded = 0
    start, cpu = time.perf_counter(), time.process_time()
    while count == 0 or time.perf_counter() - start < 0.5:
        for ids, _, _ in epoch(batch_size):
            padded += ids.numel()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        count += 1
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds / count,
        "cpu_s": cpu_s / count,
        "padded_tokens": padded // count,
        "padded_per_s": padded / seconds,
    }


def check(epoch: Epoch, batch_size: int) -> Json:
    """Digests of one epoch."""
    found, batches = BatchDigest(PAD_ID), 0
    for ids, mask, labels in epoch(batch_size):
        full = torch.ones_like(ids) if mask is None else mask
        found.add(ids.cpu().numpy(), full.cpu().numpy(), labels.cpu().numpy())
        batches += 1
    return {**found.to_json(), "batches": batches}


def _main(peer: str, cache: str, device: str) -> None:
    torch.set_num_threads(1)
    setting = Setting(peer, Path(cache), device)
    epoch = PEERS[peer](setting)

    def answer(do: str, batch_size: int) -> Json:
        return check(epoch, batch_size) if do == "check" else run_epochs(epoch, batch_size, setting.device)

    serve(answer)


if __name__ == "__main__":
    _main(*sys.argv[1:])
