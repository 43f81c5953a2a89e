"""Checkpoints: everything needed to resume a run exactly, each complete or absent.

    checkpoints/step-000123/
      model.safetensors       weights and buffers by name
      optimizer.safetensors   <parameter>.exp_avg, <parameter>.exp_avg_sq, <parameter>.step
      random.safetensors      states of the random generators, uint8
      config.json             the model's configuration
      state.json              progress, sums, sizes and checksums of the other files and of the records

A checkpoint is written into a hidden folder next to its own, flushed, and renamed; `checkpoints` then deletes older
ones. It may come from a stranger, with checksums that fit: what it holds is checked before it is used.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from transformers import PreTrainedModel

from cache.common.files import storage_errors
from cache.common.folder import Folder
from cache.errors import CorruptCacheError, FormatVersionError, MismatchError
from cache.format.checksummed_json import MAX_COUNT, Fields, seal, unseal
from cache.format.files import FileInfo, file_info

from ..models.library_errors import library_errors
from ..run_folder.folder import METRICS, TIMING, Json, listed_files
from ..run_folder.records import is_number
from ..run_folder.tensor_files import Tensors, check_tensors, read_tensors, write_tensors
from ..runtime import device as devices
from .loss_scale import INTERVAL
from .setup import TrainingSetup
from .state import Meter, State, Sums

FORMAT = "lengthwise-checkpoint"
VERSION = 1
STATE = "state.json"
MAX_STATE_BYTES = 1 << 26
WEIGHTS, OPTIMIZER, RANDOM, CONFIG = "model.safetensors", "optimizer.safetensors", "random.safetensors", "config.json"
FILES = (CONFIG, WEIGHTS, OPTIMIZER, RANDOM)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are as its state.json says.

    Attributes:
        folder: of the checkpoint.
        state: content of state.json.
        records: size and checksum of each record file at its step.
    """

    folder: Folder
    state: Json
    records: dict[str, FileInfo]


# --- writing


def save_checkpoint(
    root: Folder, setup: TrainingSetup, state: State, window: Sums, owner: Json, records: Mapping[str, FileInfo]
) -> None:
    """Write the checkpoint of the current step into a run's `checkpoints` folder.

    Args:
        window: the sums since the last log point.
        owner: what it belongs to, from `checkpoint_owner`.
        records: size and checksum of each record file up to here.

    Raises:
        StorageError: the file system refused; older checkpoints are unchanged.
    """
    name = step_name(state.step)
    if root.stat(name) is not None:
        return  # of the same step: resumed before the end of its epoch, which was repeated
    with storage_errors(root.path / name), root.staging(name) as folder:
        write_tensors(folder, WEIGHTS, _weights(setup.model))
        write_tensors(folder, OPTIMIZER, _moments(setup))
        write_tensors(folder, RANDOM, devices.random_state(setup.device))
        with folder.create(CONFIG) as file:
            file.write(setup.model.config.to_json_string(use_diff=True).encode())
        content = {
            "format": FORMAT,
            "version": VERSION,
            **owner,
            **{name: getattr(state, name) for name in _PROGRESS},
            **({} if setup.loss_scale is None else {"loss_scale": setup.loss_scale.to_json()}),
            "window": asdict(window),
            "epoch_sums": asdict(state.epoch_sums),
            "records": [asdict(info) for info in records.values()],
            "files": [asdict(file_info(folder, name)) for name in FILES],
        }
        with folder.create(STATE) as file:
            file.write(seal(content))


_PROGRESS = ("epoch", "epoch_step", "step", "skipped", "epoch_seconds", "seconds", "scores", "evaluated_step", "best")


def _weights(model: PreTrainedModel) -> Tensors:
    kept = model.state_dict().keys()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # one name of tensors with several
    return {name: tensor for name, tensor in named.items() if name in kept}


def _moments(setup: TrainingSetup) -> Tensors:
    return {
        f"{name}.{moment}": tensor
        for name, parameter in setup.model.named_parameters()
        for moment, tensor in setup.optimizer.state.get(parameter, {}).items()
    }


def step_name(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:06d}"


# --- reading


def read_checkpoint(root: Folder, name: str) -> Checkpoint:
    """A checkpoint, every file of it verified against its checksum.

    Raises:
        CorruptCacheError: a file is missing or differs, or state.json is not as this release writes it.
        StorageError: a file cannot be read.
    """
    path = root.path / name / STATE
    with storage_errors(root.path / name, "read"):
        try:
            folder = root.folder(name)
            content = unseal(folder.read(STATE, MAX_STATE_BYTES), path, FORMAT, VERSION)
            state = Fields(content, path)
            for file, info in listed_files(state, "files", FILES).items():
                if file_info(folder, file) != info:
                    raise CorruptCacheError(f"{folder.path / file}: differs from its checksum")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptCacheError(f"{root.path / name}: the file {error.filename!r} is missing") from None
        except FormatVersionError:
            raise MismatchError(
                f"{path} was written by another release; install that one, or start a new run"
            ) from None
    for key in ("epoch", "epoch_step", "step", "skipped", "evaluated_step"):
        state.integer(key, 0, MAX_COUNT)
    sums = [field.name for field in fields(Sums)]
    window, epoch_sums = (Fields(state.mapping(key), path) for key in ("window", "epoch_sums"))
    for numbers, keys in ((state, ["epoch_seconds", "seconds"]), (window, sums), (epoch_sums, sums)):
        for key in keys:
            numbers.check(key, "a number", is_number)
    if "loss_scale" in content:
        scale = Fields(state.mapping("loss_scale"), path)
        scale.check("value", "a positive number", lambda value: is_number(value) and value > 0)
        scale.integer("steps", 0, INTERVAL - 1)
    for key in ("scores", "best"):
        state.check(key, "an object or null", lambda value: value is None or isinstance(value, dict))
    if content["best"] is not None:
        best = Fields(content["best"], path)
        best.integer("epoch", 1, MAX_COUNT)
        best.integer("step", 1, MAX_COUNT)
        best.mapping("scores")
        best.check("value", "a number", is_number)
    return Checkpoint(folder, content, listed_files(state, "records", (METRICS, TIMING)))


def load_checkpoint(checkpoint: Checkpoint, setup: TrainingSetup) -> State:
    """Restore weights, optimizer and random state; returns the progress of the run.

    Raises:
        MismatchError: progress or tensors are not those of this run and model.
    """
    content, folder = checkpoint.state, checkpoint.folder
    window, epoch_sums = (
        Sums(**{field.name: content[key][field.name] for field in fields(Sums)}) for key in ("window", "epoch_sums")
    )
    progress = {name: content[name] for name in _PROGRESS}
    state = State(Meter(setup.device, window, setup.ranks), epoch_sums=epoch_sums, **progress)
    steps = (*setup.steps, 0)
    if (
        state.epoch >= len(steps)
        or state.epoch_step > steps[state.epoch]
        or state.step != sum(steps[: state.epoch]) + state.epoch_step
    ):
        raise MismatchError(
            f"{folder.path}: its progress is epoch {state.epoch}, step {state.epoch_step} of it, {state.step} of the "
            f"run, but the epochs of this run have {', '.join(map(str, setup.steps))} steps"
        )
    with library_errors(MismatchError, f"{folder.path}: its tensors are not those of this model"):
        _restore(folder, setup)
    if setup.loss_scale is not None:
        scale = content.get("loss_scale")
        if scale is None:
            raise MismatchError(f"{folder.path}: it holds no loss scale, which a run in fp16 needs; start a new run")
        setup.loss_scale.set(scale["value"], scale["steps"])
    return state


def load_weights(root: Folder, step: int, setup: TrainingSetup) -> None:
    """Give the model the weights of a step's checkpoint.

    Raises:
        CorruptCacheError: it is missing or damaged.
        MismatchError: its tensors are not those of this model.
    """
    folder = read_checkpoint(root, step_name(step)).folder
    with library_errors(MismatchError, f"{folder.path}: its tensors are not those of this model"):
        _copy_weights(read_tensors(folder, WEIGHTS), setup)


def _copy_weights(weights: Tensors, setup: TrainingSetup) -> None:
    present = _weights(setup.model)
    check_tensors(weights, present)
    with torch.no_grad():
        for name, tensor in weights.items():
            present[name].copy_(tensor)


def _restore(folder: Folder, setup: TrainingSetup) -> None:
    weights, moments, random = (read_tensors(folder, name) for name in (WEIGHTS, OPTIMIZER, RANDOM))
    trained = {
        name: parameter
        for name, parameter in setup.model.named_parameters()
        if parameter.requires_grad and f"{name}.step" in moments  # one that never had a gradient has none
    }
    number = torch.zeros(())
    like = {name: {"exp_avg": p, "exp_avg_sq": p, "step": number} for name, p in trained.items()}
    check_tensors(moments, {f"{name}.{moment}": tensor for name in like for moment, tensor in like[name].items()})
    check_tensors(random, devices.random_state(setup.device))
    _copy_weights(weights, setup)
    for name, parameter in trained.items():
        for moment in like[name]:
            setup.optimizer.state[parameter][moment] = moments[f"{name}.{moment}"].to(setup.device)
    devices.set_random_state(random, setup.device)
