"""Datasets of the Hugging Face Hub, or of its local cache where the Hub cannot be reached."""

import os
from typing import Any

from cache.common.hub import hub_reachable
from cache.errors import InputError

from .corpus import Columns, Source, cache_name, choose_columns, unread_labels
from .presets import PRESETS
from .tables import dataset_frame, frame_stream, holds_words, known_classes, split_hidden


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
    frames = {split: dataset_frame(data[split]) for split in wanted or data if split in data}
    if not frames:
        raise InputError(f"{dataset_id} has none of the splits {', '.join(wanted)}; it has {', '.join(data)}")
    names = next(iter(frames.values())).names
    columns = choose_columns(names, asked, dataset_id)
    frames, note = split_hidden(frames, columns)
    return Source(
        argument=argument,
        name=cache_name(dataset_id.rpartition("/")[2] + (f"-{config}" if config else "")),
        identity={
            "kind": "hub",
            "dataset": dataset_id,
            "config": builder.config.name,
            "revision": str(builder.hash),
            "splits": list(frames),
            **columns.identity,
        },
        splits={split: frame_stream(frame, columns, f"{dataset_id}, {split}") for split, frame in frames.items()},
        label_names=known_classes(frames, columns),
        pair=columns.pair is not None,
        words=holds_words(frames, columns),
        note=note,
        unread=unread_labels(names, columns),
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
