"""The fine-tuned model as a folder that `transformers.pipeline` loads: weights, tokenizer, model card."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedModel

from cache import Cache
from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError, InputError
from cache.format.files import FileInfo, open_file_info
from cache.format.manifest import Manifest

from ..forward.inputs import PADDING_SIDE
from ..models.folder import CONFIG, DETAILS, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ..models.heads import quiet_transformers
from ..models.loading import find_model
from .folder import MODEL, SETTINGS, Json, RunInfo, open_run, read_run
from .model_card import README, model_card

TOKENIZER_FILES = {TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json"}
"""What a tokenizer may consist of; a file of another name could be taken for weights or for code."""


def exported_tokenizer(cache: Cache, typed: bool) -> dict[str, bytes]:
    """The tokenizer's files by name, set to pad on the side that the model is trained with, and to give the token types
    of pairs where it was trained with them: a tokenizer of no model's own class gives none by itself.

    Args:
        cache: whose tokenizer.
        typed: whether the model tells two texts apart by token types.

    Raises:
        CorruptCacheError: a file is damaged, or does not belong to a tokenizer.
    """
    files = dict(cache.tokenizer_files())
    if strange := sorted(files.keys() - TOKENIZER_FILES):
        raise CorruptCacheError(f"{cache.folder}: its tokenizer has the file {strange[0]!r}, which no tokenizer has")
    settings: Json = {}
    if cache.manifest.tokenizer.padding_side != PADDING_SIDE:
        settings["padding_side"] = PADDING_SIDE
    if typed and cache.manifest.task.pair:
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    if settings:
        try:
            config = json.loads(files.get(TOKENIZER_CONFIG, b"{}"))
            text = json.dumps({**config, **settings}, indent=2, ensure_ascii=False) + "\n"
            files[TOKENIZER_CONFIG] = text.encode()
        except (ValueError, TypeError, RecursionError) as error:
            path = cache.tokenizer_folder / TOKENIZER_CONFIG
            raise CorruptCacheError(f"{path} is not the configuration of a tokenizer ({error})") from None
    return files


def export_model(
    run: Folder,
    model: PreTrainedModel,
    tokenizer: Mapping[str, bytes],
    manifest: Manifest,
    info: RunInfo,
    results: Sequence[Json],
) -> None:
    """Write the fine-tuned model with its tokenizer, from `exported_tokenizer`, and its model card, of the cache's
    manifest and the records of the epochs and their evaluations.

    Raises:
        StorageError: the file system refused.
    """
    with storage_errors(run.path / MODEL), run.staging(MODEL) as folder:
        with quiet_transformers():
            model.save_pretrained(folder.checked_path())
        for name, data in tokenizer.items():
            folder.write(name, data)
        files = [asdict(_finished(folder, name)) for name in folder.names()]
        card = model_card(run.path.resolve().name, info, model.config, manifest, results)
        folder.write(README, card.encode())
        details: Json = {
            "max_length": info.max_length,
            "cache": info.cache_name,
            "cache_fingerprint": info.cache_fingerprint,
            "task": info.settings.task,
            "pair": manifest.task.pair,
            "files": files,
        }
        folder.write(DETAILS, (json.dumps(details, indent=2, ensure_ascii=False) + "\n").encode())


def _finished(folder: Folder, name: str) -> FileInfo:
    """Flush a file that a library wrote, with the mode of the other files; returns its size and checksum."""
    with folder.open_file(name) as file:
        os.fchmod(file.fileno(), os.fstat(folder.handle).st_mode & 0o666)
        os.fsync(file.fileno())
        return open_file_info(name, file)


def trained_model_folder(name: str) -> Path:
    """The model folder of a run, or of a folder or Hub id that is a model itself.

    Raises:
        InputError: the run is not finished, or there is no such model.
    """
    run = Path(name)
    if (run / SETTINGS).is_file():
        if not (run / MODEL / CONFIG).is_file():
            raise InputError(f"{run} is not finished, so it has no model yet; go on with `train run --resume {run}`")
        return run / MODEL
    remedy = f"the folder of a run, such as runs/imdb-1, or one that holds {CONFIG} and {WEIGHTS}"
    return find_model(name, "MODEL", remedy)


def evaluated_precision(name: str, given: str) -> str:
    """What `auto` stands for in an evaluation of a run that was trained in fp32: fp32, so that its scores come out
    again. Everything else stays as it was given."""
    run = Path(name)
    if given != "auto" or not (run / SETTINGS).is_file():
        return given
    with open_run(run) as folder:
        return "fp32" if read_run(folder).settings.precision == "fp32" else given
