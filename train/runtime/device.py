"""The device a run computes on: its choice, precision, random state and memory.

`torch.accelerator` and `torch.get_device_module` make one code path serve all devices.
"""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

from cache.console.text import counted
from cache.errors import InputError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions that autocast computes in, its weights in fp32."""


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device called `name`; `auto` is the accelerator, or the CPU where there is none.

    Args:
        name: `auto`, a type such as `cuda`, or a type and a number.
        local_rank: of one of several ranks, its number on this machine: each takes the accelerator of its number.

    Raises:
        InputError: there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if local_rank is not None and accelerator is not None and name != "cpu":
        if name not in ("auto", accelerator.type):
            raise InputError(
                f"--device {name!r}: each rank takes a device of its own, expected auto, {accelerator.type} or cpu"
            )
        if local_rank >= (count := torch.accelerator.device_count()):
            raise InputError(
                f"LOCAL_RANK is {local_rank}, but this machine has {count} {accelerator.type} devices, expected one "
                f"for each rank; start {count} ranks on it, with torchrun: --nproc-per-node {count}"
            )
        name = f"{accelerator.type}:{local_rank}"
    if name == "auto":
        return accelerator or torch.device("cpu")
    here = ["cpu"] + [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()) if accelerator]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device and (device.type == "cpu" or str(device) in here or (device.index is None and f"{device}:0" in here)):
        return device
    raise InputError(f"--device {name!r} is not on this machine, expected auto or one of {', '.join(here)}")


def pick_precision(name: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`; `auto` is bf16 where the device computes it natively, else fp32.

    Raises:
        InputError: another one than fp32 was asked for on a device that autocast cannot serve.
    """
    if name == "auto":
        return "bf16" if native_bf16(device) else "fp32"
    if name in AUTOCAST and not torch.amp.autocast_mode.is_autocast_available(device.type):
        raise InputError(f"--precision {name} does not work on {device}; pass --precision fp32")
    return name


def native_bf16(device: torch.device) -> bool:
    """Whether a device computes bf16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # torch has no public function for these
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False


def device_name(device: torch.device) -> str:
    """The device's model for people, such as "NVIDIA H100", or "CPU, 8 threads"."""
    if device.type == "cpu":
        return f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    module = torch.get_device_module(device)
    return str(module.get_device_name(device)) if hasattr(module, "get_device_name") else device.type.upper()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context in which a forward pass computes at `precision`."""
    if precision in AUTOCAST:
        return torch.autocast(device.type, dtype=AUTOCAST[precision])
    return contextlib.nullcontext()


def prepare(device: torch.device) -> None:
    """Make a GPU the current one, with TF32, its peak memory reset; make the C library reuse freed memory on a CPU."""
    if device.type == "cpu":
        _keep_freed_memory()
    else:
        torch.set_float32_matmul_precision("high")
        if device.index is not None:
            torch.accelerator.set_device_index(device.index)
        module = torch.get_device_module(device)
        if hasattr(module, "reset_peak_memory_stats"):
            module.reset_peak_memory_stats(device)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Within it matrix products in fp32 are not rounded to TF32, as `prepare` lets them be."""
    used = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(used)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of options of `mallopt`."""


def _keep_freed_memory() -> None:
    """Tell glibc, where it is the C library, not to return freed memory to the system between operations.

    A step allocates large tensors of the same sizes again and again; by default each gets fresh pages, and clearing
    these takes a sixth of a step's time.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_option is not None:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            set_option(option, 2**31 - 1)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory so far: of the tensors on an accelerator, of the whole process on a CPU; None if unknown."""
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    module = torch.get_device_module(device)
    if not hasattr(module, "max_memory_allocated"):
        return None
    return int(module.max_memory_allocated(device))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the random generators that a step uses, uint8 tensors: the CPU's and the accelerator's."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore the states that `random_state` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def skips_updates(device: torch.device) -> bool:
    """Whether torch's fused AdamW changes nothing where `found_inf` is 1; on MPS older releases take no notice of it
    (pytorch/pytorch#186360)."""
    parameter = torch.nn.Parameter(torch.ones((), device=device))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    optimizer.found_inf = torch.ones((), device=device)  # type: ignore[attr-defined]
    optimizer.step()
    return bool(parameter == 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch raised this for lack of memory; on the CPU it raises a plain RuntimeError."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn a lack of memory, for which torch raises RuntimeErrors, into a MemoryError, which the commands report."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(f"({' '.join(str(error).split()):.300})") from error
        raise
