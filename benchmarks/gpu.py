"""Feed and training on a machine with a GPU: the same measurements, the same tables.

    python -m benchmarks.gpu            # on the accelerator that torch finds
    python -m benchmarks.gpu --device cpu --quick

Device-agnostic: whatever `torch.accelerator` finds. Clocks stop only after the device has finished.
"""

import argparse
import sys

from . import feed, timing, training
from .timing import measure, say

FIND = "import torch; found = torch.accelerator.current_accelerator(check_available=True); print(found or '')"
NAME = (
    "import sys, torch; device = torch.device(sys.argv[1]); module = torch.get_device_module(device); "
    "print(module.get_device_name(device) if hasattr(module, 'get_device_name') else device)"
)


def main() -> None:
    settings = parser().parse_args()
    if not settings.device:
        settings.device = measure([sys.executable, "-c", FIND])[1].strip()
    if not settings.device:
        raise SystemExit(
            "torch finds no accelerator on this machine, expected a GPU; to run the same measurements on the CPU, "
            "to see that they work: python -m benchmarks.gpu --device cpu --quick"
        )
    settings.device_name = _name(settings.device)
    say(f"device: {settings.device_name}")
    settings.stage = "gpu-feed"
    feed.compare(settings)
    feed.first_batch(settings)
    settings.stage = "gpu-training"
    training.compare(settings)
    training.overhead(settings)


def parser() -> argparse.ArgumentParser:
    """Training's flags, with a GPU's usual sizes."""
    flags = {"layers": 0, "steps": 0, "batch_size": 16, "precision": "auto", "lr": 1e-4, "device": ""}
    return timing.arguments(__doc__, **flags)


def _name(device: str) -> str:
    if device == "cpu":
        return "the CPU, because --device cpu was given; this says nothing about a GPU"
    return measure([sys.executable, "-c", NAME, device])[1].strip()


if __name__ == "__main__":
    main()
