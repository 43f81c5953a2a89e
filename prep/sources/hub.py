"""Datasets of the Hugging Face Hub, or of its local cache where the Hub cannot be reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.common.forked import Forked
from cache.common.hub import hub_reachable
from cache.errors import InputError

from ..columns import Columns
from ..corpus.presets import PRESETS
from ..corpus.source import Source
from .saved import arrow_frame
from .tables import class_names, frames_source


def open_hub(argument: str, asked: Columns, forked: Forked, wanted: tuple[str, ...] = ()) -> Source:
    """Open a dataset by its id, which `:config` may follow.

    `wanted` are the splits to take, in this order; none = all.

    Raises:
        InputError: it cannot be loaded, or a column is not there.
    """
    dataset_id, _, config = argument.partition(":")
    # In a process of its own, for it changes settings of `datasets`; how much memory that may take is not ours to say.
    found = Forked(1 << 40).call(Path(dataset_id), _prepare, dataset_id, config or None, not hub_reachable())
    classes = class_names(found.features)
    frames = {
        split: arrow_frame(found.files[split], list(found.features), classes, forked)
        for split in wanted or found.files
        if split in found.files
    }
    if not frames:
        raise InputError(f"{dataset_id} has none of the splits {', '.join(wanted)}; it has {', '.join(found.files)}")
    name = dataset_id.rpartition("/")[2] + (f"-{config}" if config else "")
    identity = {"kind": "hub", "dataset": dataset_id, "config": found.config, "revision": found.revision}
    return frames_source(argument, name, frames, asked, identity)


@dataclass(frozen=True)
class Prepared:
    """A dataset in the local cache of `datasets`: configuration, revision, features, Arrow files of each split."""

    config: str
    revision: str
    features: dict[str, Any]
    files: dict[str, list[Path]]


def _prepare(dataset_id: str, config: str | None, offline: bool) -> Prepared:
    """Download a dataset, or find it in the local cache. Runs in a forked process."""
    import datasets
    import huggingface_hub

    if offline:  # the Hub's client would retry for half a minute
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(dataset_id, config)
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(
            f"cannot load the dataset {dataset_id!r} from the Hugging Face Hub: {reason}; check the name (a "
            f"configuration is given as {dataset_id}:NAME) and the connection, or give a local file. "
            f"Presets: {', '.join(PRESETS)}"
        ) from error
    files = {split: [Path(file["filename"]) for file in rows.cache_files] for split, rows in splits.items()}
    features = next(iter(splits.values())).features.to_dict() if splits else {}
    return Prepared(builder.config.name, str(builder.hash), features, files)
