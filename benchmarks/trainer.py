"""The Hugging Face Trainer's arguments that make it train as every other peer does."""

from pathlib import Path
from typing import Any

import torch


def trainer_arguments(
    folder: Path, device: torch.device, precision: str, lr: float, batch_size: int, micro_batches: int, sampling: str
) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments`: the fused AdamW without weight decay, gradients clipped at
    1.0, a linear schedule without warm-up, and nothing saved or reported.

    Args:
        folder: where the Trainer may write.
        device: where to compute; its memory is pinned for an accelerator.
        precision: fp32 or bf16.
        lr: peak learning rate.
        batch_size: rows of a step.
        micro_batches: that they are divided among.
        sampling: the Trainer's way through the rows.
    """
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": batch_size // micro_batches,
        "gradient_accumulation_steps": micro_batches,
        "learning_rate": lr,
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "linear",
        "bf16": precision == "bf16",
        "use_cpu": device.type == "cpu",
        "train_sampling_strategy": sampling,
        "logging_nan_inf_filter": False,  # it would read every step's loss
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": device.type != "cpu",
    }
