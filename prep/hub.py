"""Datasets of the Hugging Face Hub, or of its local cache where the Hub cannot be reached."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from cache.names import hub_reachable

from .corpus import Columns, Source, cache_name, choose_columns
from .files import Stream, named
from .presets import PRESETS

if TYPE_CHECKING:
    import pyarrow as pa


def open_hub(argument: str, asked: Columns, wanted: tuple[str, ...] = ()) -> Source:
    """Open a dataset.

    Args:
        argument: its id; `:config` may follow.
        asked: columns; the usual ones for those that are not named.
        wanted: splits to take, in this order; none = all.

    Raises:
        InputError: it cannot be loaded, or a column is not there.
    """
    if not hub_reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # its client would retry for half a minute
    dataset_id, _, config = argument.partition(":")
    builder, data = _load(dataset_id, config or None)
    splits = {split: data[split] for split in wanted or data if split in data}
    if not splits:
        raise InputError(f"{dataset_id} has none of the splits {', '.join(wanted)}; it has {', '.join(data)}")
    features = next(iter(splits.values())).features
    columns = choose_columns(list(features), asked, dataset_id)
    label = columns.labels[0]
    unlabelled = [split for split, rows in splits.items() if _has_no_labels(rows, label)]
    splits = {split: rows for split, rows in splits.items() if split not in unlabelled}
    if not splits:
        raise InputError(f"no row of {dataset_id} has a label: column {label!r} is -1 everywhere; see --label")
    return Source(
        argument=argument,
        name=cache_name(dataset_id.rpartition("/")[2] + (f"-{config}" if config else "")),
        identity={
            "kind": "hub",
            "dataset": dataset_id,
            "config": builder.config.name,
            "revision": str(builder.hash),
            "splits": list(splits),
            **columns.identity,
        },
        splits={split: _stream(rows, columns) for split, rows in splits.items()},
        label_names=columns.classes or _names(features[label]),
        pair=columns.pair is not None,
        words=_is_list(features[columns.text]),
        note=f"left out, for its labels are not public: {', '.join(unlabelled)}" if unlabelled else "",
    )


def _load(dataset_id: str, config: str | None) -> tuple[Any, Any]:
    """The dataset's builder, and its splits by name."""
    import datasets

    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(dataset_id, config)
        builder.download_and_prepare()
        return builder, builder.as_dataset()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(
            f"cannot load the dataset {dataset_id!r} from the Hugging Face Hub: {reason}; check the name (a "
            f"configuration is given as {dataset_id}:NAME) and the connection, or give a local file. "
            f"Presets: {', '.join(PRESETS)}"
        ) from error


def _has_no_labels(rows: Any, label: str) -> bool:
    """Whether every label is -1, the Hub's way of keeping the answers of a test split to itself."""
    import pyarrow.compute as pc

    if not hasattr(rows.features[label], "names") or not len(rows):
        return False
    found = pc.min_max(rows.data.column(label)).as_py()
    return bool(found["min"] == found["max"] == -1)


def _is_list(feature: Any) -> bool:
    return isinstance(feature, list) or hasattr(feature, "feature")


def _names(feature: Any) -> tuple[str, ...] | None:
    """The classes of a label, or of a list of labels, where the dataset says them."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return tuple(names) if names else None


def _stream(rows: Any, columns: Columns) -> Stream:
    def batches() -> Iterator["pa.RecordBatch"]:
        for table in rows.select_columns(columns.names).with_format("arrow").iter(1 << 14):
            for batch in table.to_batches():
                yield named(batch, columns)

    return batches
