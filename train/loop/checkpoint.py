"""Checkpoints: everything needed to resume a run exactly, each complete or absent.

    checkpoints/step-000123/
      model.safetensors       weights and buffers by name
      optimizer.safetensors   <parameter>.exp_avg, <parameter>.exp_avg_sq, <parameter>.step
      random.safetensors      states of the random generators, uint8
      config.json             the model's configuration
      state.json              progress, sums, sizes and checksums of the other files, and its own checksum

A checkpoint is written into a hidden folder next to its own, flushed, and renamed; then older ones are deleted.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from transformers import PreTrainedModel

from cache.common.files import storage_errors
from cache.errors import CorruptCacheError, MismatchError, NotACacheError
from cache.format.checksummed_json import read_small_file, seal, unseal
from cache.format.files import FileInfo, file_info, sha256_file
from cache.writing.publishing import publish, staging

from .. import device as devices
from ..run_folder.records import Json
from .setup import TrainingSetup
from .state import Meter, State, Sums

FORMAT = "lengthwise-checkpoint"
VERSION = 1
STATE = "state.json"
MAX_STATE_BYTES = 16 * 1024 * 1024
WEIGHTS, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.safetensors", "random.safetensors"

Tensors = dict[str, torch.Tensor]


def save_checkpoint(root: Path, setup: TrainingSetup, state: State, owner: Json, records: dict[str, int]) -> Path:
    """Write the checkpoint of the current step.

    Args:
        root: the run's `checkpoints` folder.
        setup: model and optimizer.
        state: the progress of the run.
        owner: what it belongs to: cache fingerprint, base model and settings.
        records: size in bytes of each record file up to here.

    Returns:
        Its folder.

    Raises:
        StorageError: the file system refused; older checkpoints are unchanged.
    """
    path = root / f"step-{state.step:06d}"
    if path.exists():
        return path  # of the same step: resumed before the end of its epoch, which was repeated
    with staging(path) as staged:
        folder = staged.path
        with storage_errors(path):
            safetensors.torch.save_file(_weights(setup.model), folder / WEIGHTS)
            safetensors.torch.save_file(_moments(setup), folder / OPTIMIZER)
            safetensors.torch.save_file(devices.random_state(setup.device), folder / RANDOM)
            setup.model.config.to_json_file(folder / "config.json", use_diff=True)
            files = [asdict(file_info(file)) for file in sorted(folder.iterdir())]
            window, _, _ = state.meter.read()
            content = {
                "format": FORMAT,
                "version": VERSION,
                **owner,
                **{name: getattr(state, name) for name in _PROGRESS},
                "window": asdict(window),
                "epoch_sums": asdict(state.epoch_sums),
                "records": records,
                "files": files,
            }
            (folder / STATE).write_bytes(seal(content))
        publish(staged, path)
    return path


_PROGRESS = ("epoch", "epoch_step", "step", "skipped", "epoch_seconds", "seconds", "scores")


def _weights(model: PreTrainedModel) -> Tensors:
    kept = model.state_dict().keys()
    named: Iterator[tuple[str, torch.Tensor]] = (
        item for source in (model.named_parameters(), model.named_buffers()) for item in source
    )  # each tensor once, even where two names share it
    return {name: tensor.detach().contiguous() for name, tensor in named if name in kept}


def _moments(setup: TrainingSetup) -> Tensors:
    return {
        f"{name}.{moment}": tensor.detach().contiguous()
        for name, parameter in setup.model.named_parameters()
        for moment, tensor in setup.optimizer.state.get(parameter, {}).items()
    }


def prune(root: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints."""
    for folder in checkpoints(root)[keep:]:
        remove(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint, its state first, so that a half-deleted one is not taken for a checkpoint."""
    with storage_errors(folder):
        (folder / STATE).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def checkpoints(root: Path) -> list[Path]:
    """The checkpoints under a folder, newest first."""
    found = [path for path in root.glob("step-*") if path.name[5:].isdigit() and (path / STATE).exists()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def clean(root: Path) -> None:
    """Delete what a killed process left unfinished, in the checkpoints' folder and in the run's."""
    unfinished = [*root.glob(".step-*"), *root.parent.glob(".*.building-*")]
    unfinished += [path for path in root.glob("step-*") if not (path / STATE).exists()]
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(root: Path, owner: Json, warn: Callable[[str], None]) -> tuple[Path, Json] | None:
    """The newest intact checkpoint and its state; damaged newer ones are reported and deleted.

    Raises:
        MismatchError: it belongs to another cache or to other settings.
    """
    for folder in checkpoints(root):
        try:
            content = read_state(folder)
        except (CorruptCacheError, NotACacheError) as error:
            warn(f"{error}; going back to the checkpoint before it")
            remove(folder)
            continue
        differing = [name for name in owner if content.get(name) != owner[name]]
        if differing:
            lines = [f"{name}: {content.get(name)!r:.80} there, {owner[name]!r:.80} here" for name in differing]
            raise MismatchError(f"the checkpoint {folder} belongs to another run:\n  " + "\n  ".join(lines))
        return folder, content
    return None


def read_state(folder: Path) -> Json:
    """A checkpoint's state.json, after every file of the checkpoint is verified against its checksum.

    Raises:
        CorruptCacheError: a file is missing or differs.
    """
    path = folder / STATE
    content = unseal(read_small_file(path, MAX_STATE_BYTES), path, FORMAT, VERSION)
    for entry in content["files"]:
        info, file = FileInfo(**entry), folder / entry["file"]
        if not file.is_file() or file.stat().st_size != info.bytes or sha256_file(file) != info.sha256:
            raise CorruptCacheError(f"{file}: is missing or differs from its checksum")
    return content


def load_checkpoint(folder: Path, content: Json, setup: TrainingSetup) -> State:
    """Restore weights, optimizer and random state.

    Returns:
        The progress of the run.

    Raises:
        MismatchError: the tensors are not this model's.
    """
    try:
        saved = safetensors.torch.load_file(folder / WEIGHTS)
        present = {**dict(setup.model.named_parameters()), **dict(setup.model.named_buffers())}
        with torch.no_grad():
            for name in _weights(setup.model).keys() | saved.keys():
                present[name].copy_(saved[name])
        moments = safetensors.torch.load_file(folder / OPTIMIZER, device=str(setup.device))
        parameters = dict(setup.model.named_parameters())
        for name, tensor in moments.items():
            parameter, _, moment = name.rpartition(".")
            setup.optimizer.state[parameters[parameter]][moment] = tensor
        devices.set_random_state(safetensors.torch.load_file(folder / RANDOM), setup.device)
    except (KeyError, RuntimeError) as error:
        raise MismatchError(f"{folder}: its tensors are not those of this model ({error})") from None
    progress = {name: content[name] for name in _PROGRESS}
    return State(Meter(setup.device, Sums(**content["window"])), epoch_sums=Sums(**content["epoch_sums"]), **progress)
