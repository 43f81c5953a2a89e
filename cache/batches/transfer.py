"""Copies of tensors to a device that do not make the host wait."""

import torch


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor in page-locked memory, from which a copy to the device need not wait; as it is for a CPU and for MPS,
    where memory is one, and where torch before 2.13 pins none."""
    return tensor if device.type in ("cpu", "mps") else tensor.pin_memory()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor copied to a device, without waiting; the source may be released at once.

    MPS is waited for: torch would read the source later, even if it is released meanwhile (pytorch/pytorch#189690).
    """
    return pinned(tensor, device).to(device, non_blocking=device.type != "mps")
