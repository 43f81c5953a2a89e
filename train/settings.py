"""The settings of one training run: one declaration per setting, their validation, and their way to and from JSON.

Each field of `Settings` states its type, default, help text and bounds once. The flags of `train run`, the keys of a
`--config` file and the validation follow from it. Loads without numpy and torch, so that `--help` is fast.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Self

from cache.errors import InputError
from cache.format.tasks import KINDS
from cache.plans.spec import STRATEGIES, PlanSpec

from .declarations import declarations, flag, setting
from .settings_file import TRAINER_NAMES

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("linear", "cosine", "constant")
ON_NONFINITE = ("stop", "skip")
NO_SPLIT = "none"
"""The `eval_split` that disables evaluation."""

AUTO, OFF = "auto", "none"
"""Values of a tracker's setting: write to the usual destination, or do not track."""


@dataclass(frozen=True)
class Settings:
    """All settings of `train run`; the flag of each is its name with dashes.

    Raises:
        InputError: values are out of range; all of them are reported at once, by flag.
    """

    cache: str = setting(
        MISSING,
        "Folder of the cache, made by `prep build`, or the URL it was pushed to.",
        folder=True,
        free_on_resume=True,
    )
    model: str | None = setting(
        None,
        "Model to start from: folder, Hub id, or minilm.",
        default_text="the model whose tokenizer made the cache",
        folder=True,
    )
    out: str | None = setting(
        None,
        "Run folder to make.",
        default_text="the first free runs/<cache name>-<n>",
        folder=True,
        free_on_resume=True,
    )
    task: str | None = setting(
        None,
        "Task to train for: the one the cache was built for, or mlm (masked language modelling) on any cache's texts.",
        default_text="as the cache was built",
        choices=KINDS,
    )
    new_head: bool = setting(
        False, "Give a trained classifier a new head, for other classes or another task; else its own is trained on."
    )
    epochs: int = setting(3, "Passes over the training split.", minimum=1)
    max_steps: int | None = setting(
        None, "Maximum number of optimizer steps, over all epochs.", default_text="all steps of the epochs", minimum=1
    )
    lr: float = setting(5e-5, "Peak learning rate of AdamW.", above=0)
    eps: float = setting(1e-8, "AdamW's epsilon.", above=0)
    beta1: float = setting(0.9, "AdamW's decay of the mean of gradients, per step.", minimum=0, below=1)
    beta2: float = setting(0.999, "AdamW's decay of the mean of squared gradients, per step.", minimum=0, below=1)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay; biases and norms are exempt.", minimum=0)
    lr_scheduler_type: str = setting(
        "linear",
        "Course of the learning rate after the warm-up: down to 0 at the last step in a line or half a cosine, or "
        "constant.",
        choices=SCHEDULES,
    )
    warmup_steps: int = setting(0, "Steps over which the learning rate rises linearly to its peak.", minimum=0)
    warmup_ratio: float = setting(
        0.0, "Warm-up as a fraction of all steps, 0 to 1; instead of --warmup-steps.", minimum=0, maximum=1
    )
    class_weights: str | None = setting(
        None,
        "Weigh each row's loss by its class: balanced (rows / (classes x rows of the class)), or a JSON file with the "
        "weight of each class, by name.",
        default_text="all alike",
    )
    label_smoothing: float = setting(
        0.0, "Probability spread evenly over all classes in the training loss.", minimum=0, below=1
    )
    max_grad_norm: float = setting(1.0, "Clip gradients to this L2 norm over all parameters; 0 disables.", minimum=0)
    gradient_accumulation_steps: int = setting(
        1, "Micro-batches per optimizer step; the rows of --batch-size are divided among them.", minimum=1
    )
    freeze: int | None = setting(
        None, "Do not train the embeddings and this many of the lowest layers.", default_text="train all", minimum=0
    )
    gradient_checkpointing: bool = setting(
        False, "Compute activations again in backward instead of keeping them: less memory, about a third more time."
    )
    precision: str = setting(
        "auto",
        "fp32, bf16 (autocast), fp16 (autocast and loss scaling, for GPUs without bf16), or auto: bf16 where the "
        "hardware computes it natively, else fp32.",
        choices=PRECISIONS,
    )
    padding_free: bool = setting(
        False,
        "Lay the rows of a batch end to end instead of padding them, where the model supports it: no padding, in any "
        "order of rows.",
        off="--padded",
    )
    compile: bool = setting(False, "Compile the model with torch.compile.")
    pooled_only: bool = setting(
        True,
        "Compute the last layer for the pooled token alone; the logits are the same.",
        default_text="where the model supports it",
    )
    cpu_kernels: bool = setting(
        True,
        "On a CPU, compute attention in blocks and draw dropout from raw bits, several times faster than torch.",
        default_text="yes, unless compiled",
    )
    mlm_probability: float | None = setting(
        None, "Probability of masking a token in training; for --task mlm only.", default_text="0.15", above=0, below=1
    )
    device: str = setting("auto", "Device to compute on: auto, cpu, cuda, cuda:1, mps, …", free_on_resume=True)
    seed: int = setting(321, "Seed of the new head, of dropout, and of which tokens are masked.", minimum=0)
    strategy: str | None = setting(
        None, "How batches are planned.", default_text="as the cache was built", choices=STRATEGIES
    )
    batch_size: int | None = setting(
        None,
        "Rows of one optimizer step, over all ranks and micro-batches.",
        default_text="as the cache was built",
        minimum=1,
    )
    max_tokens: int | None = setting(
        None,
        "Maximum number of padded tokens of one optimizer step; for --strategy budget only.",
        default_text="as the cache was built",
        minimum=1,
    )
    plan_seed: int | None = setting(None, "Seed of the plan.", default_text="as the cache was built", minimum=0)
    pad_to_multiple_of: int | None = setting(
        None, "Round batch widths up to a multiple of this many tokens.", default_text="8 on CUDA, else 1", minimum=1
    )
    eval_split: str | None = setting(
        None,
        "Split to evaluate after each epoch, or none.",
        default_text="validation (valid, val, dev, validation_matched), else test, where there is one",
    )
    test_split: str | None = setting(
        None,
        "Split to evaluate the exported model on, once, at the end; or none.",
        default_text="test, where another split was evaluated after each epoch",
    )
    keep_best: str | None = setting(
        None,
        "Export the model that had the best METRIC in an evaluation, such as accuracy or loss; without METRIC, the one "
        "that runs are compared by.",
        default_text="that of the last epoch",
        bare=AUTO,
        metavar="[METRIC]",
    )
    early_stopping: int | None = setting(
        None,
        "Stop after this many epochs in a row without a new best one; implies --keep-best.",
        default_text="train all epochs",
        minimum=1,
    )
    eval_steps: int | None = setting(
        None,
        "Steps between evaluations within an epoch, each a candidate for --keep-best; there is one after each epoch "
        "besides.",
        default_text="none within an epoch",
        minimum=1,
    )
    eval_rows: int | None = setting(
        None, "Number of rows to evaluate, drawn at random and always the same.", default_text="all", minimum=1
    )
    eval_batch_size: int = setting(64, "Rows of one evaluation batch.", minimum=1, free_on_resume=True)
    save_steps: int | None = setting(
        None, "Steps between checkpoints.", default_text="one at the end of each epoch", minimum=1, free_on_resume=True
    )
    keep_checkpoints: int = setting(2, "Number of newest checkpoints to keep.", minimum=1, free_on_resume=True)
    logging_steps: int = setting(
        10, "Steps between records in metrics.jsonl; each record reads the loss from the device.", minimum=1
    )
    on_nonfinite: str = setting(
        "stop", "When a loss or gradient is not finite: stop the run, or skip that update.", choices=ON_NONFINITE
    )
    tensorboard: str | None = setting(
        None,
        "Write TensorBoard curves to DIR/<run name>; without DIR, or with auto, into the run folder.",
        default_text="no",
        bare=AUTO,
        metavar="[DIR]",
        free_on_resume=True,
    )
    wandb: str | None = setting(
        None,
        "Log to this project at Weights & Biases; without PROJECT, or with auto, to WANDB_PROJECT or lengthwise. "
        "WANDB_MODE=offline keeps the run on this machine.",
        default_text="no",
        bare=AUTO,
        metavar="[PROJECT]",
        free_on_resume=True,
    )

    def __post_init__(self) -> None:
        values = {item: getattr(self, item.name) for item in declarations(type(self))}
        wrong = [item.refusal(value) for item, value in values.items() if not item.accepts(value)]
        if self.warmup_steps and self.warmup_ratio:
            wrong.append("--warmup-steps and --warmup-ratio are both given, expected one of them")
        if wrong:
            raise InputError("\n".join(wrong))

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Settings from what `to_json` gave; missing fields take their defaults.

        Raises:
            InputError: an unknown field, no cache, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [
            repr(name) + (f" (here {TRAINER_NAMES[name]})" if name in TRAINER_NAMES else "")
            for name in content
            if name not in known
        ]
        if unknown or "cache" not in content:
            reason = f"no setting is called {', '.join(unknown)}" if unknown else "the cache is not named"
            raise InputError(f"{reason}; the settings are {', '.join(known)}")
        return cls(**content)

    def plan_spec(self, built: PlanSpec) -> PlanSpec:
        """The plan to train on; settings that were not given are those that the cache was `built` with.

        A strategy given alone takes the cache's batch size, if it is one that has a batch size.

        Raises:
            InputError: the settings contradict each other.
        """
        strategy, size, tokens = self.strategy or built.strategy, self.batch_size, self.max_tokens
        if strategy == "budget":
            tokens = tokens or built.max_tokens
        else:
            size = size or built.batch_size
        return PlanSpec.of(strategy, size, tokens, built.seed if self.plan_seed is None else self.plan_seed)

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps of a run of `total_steps`."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * total_steps)


FREE_ON_RESUME = frozenset(item.name for item in declarations(Settings) if item.free_on_resume)
"""Settings that may differ when a run is resumed, because they change none of its numbers (evaluations in other batches
are the same up to rounding): a cache that was moved is recognized by its fingerprint, and a device by its type; see
`train.resume`."""


def contradictions(run: Settings, given: Mapping[str, Any]) -> list[str]:
    """What was given on the command line and differs from the settings of the run to resume, one line each."""
    settings = run.to_json()
    return [
        f"{flag(name)} is {settings[name]} in the run, {value} was given"
        for name, value in given.items()
        if name not in FREE_ON_RESUME and settings[name] != value
    ]
