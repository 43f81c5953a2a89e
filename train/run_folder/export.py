"""The fine-tuned model as a folder that `transformers.pipeline` loads: weights, tokenizer, model card."""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from cache import Cache
from cache.common.files import storage_errors
from cache.errors import InputError
from cache.writing.publishing import publish, staging

from ..models.folder import DETAILS
from ..models.heads import quiet_transformers
from ..models.inputs import PADDING_SIDE
from ..models.loading import model_folder
from .model_card import README, model_card
from .records import MODEL, SETTINGS, Json, RunInfo, write_json


def export_model(path: Path, model: PreTrainedModel, cache: Cache, info: RunInfo, records: list[Json]) -> None:
    """Write the fine-tuned model with its tokenizer and its model card.

    Args:
        path: folder to write.
        model: the model.
        cache: what it was trained on.
        info: content of settings.json.
        records: of the run, as `joined_records` gives them.

    Raises:
        StorageError: the file system refused.
    """
    details: Json = {
        "max_length": info.max_length,
        "cache": info.cache_name,
        "cache_fingerprint": info.cache_fingerprint,
        "task": info.settings.task,
        "pair": cache.manifest.task.pair,
    }
    with staging(path) as staged:
        folder = staged.path
        with storage_errors(path), quiet_transformers():
            model.save_pretrained(folder)
            _copy_tokenizer(cache, folder)
            card = model_card(path.parent.resolve().name, info, model.config, cache.manifest, records)
            (folder / README).write_text(card, "utf-8")
        write_json(folder / DETAILS, details)
        if path.exists():  # of a run that was killed between this and its summary
            shutil.rmtree(path)
        publish(staged, path)


def _copy_tokenizer(cache: Cache, folder: Path) -> None:
    """Copy the cache's tokenizer, set to pad on the side that the model was trained with."""
    for name, data in cache.tokenizer_files().items():
        (folder / name).write_bytes(data)
    if cache.manifest.tokenizer.padding_side != PADDING_SIDE:
        path = folder / "tokenizer_config.json"
        write_json(path, {**json.loads(path.read_text("utf-8")), "padding_side": PADDING_SIDE})


def trained_model_folder(name: str) -> Path:
    """The model folder of a run, or of a folder or Hub id that is a model itself.

    Raises:
        InputError: the run is not finished, or there is no such model.
    """
    run = Path(name)
    if (run / SETTINGS).is_file():
        if not (run / MODEL / "config.json").is_file():
            raise InputError(f"{run} is not finished, so it has no model yet; go on with `train run --resume {run}`")
        return run / MODEL
    return model_folder(name)
