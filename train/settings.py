"""The settings of one training run: what they are, in which units, and whether they make sense.

A `Settings` is checked when it is made, all that is wrong with it is reported at once, and it goes to and from
plain JSON. Flags of the command line are its field names with dashes.
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from cache.errors import InputError
from cache.format.tasks import KINDS
from cache.plans.spec import STRATEGIES, PlanSpec

PRECISIONS = ("auto", "fp32", "bf16")
ON_NONFINITE = ("stop", "skip")
NO_SPLIT = "none"
"""The `eval_split` that means: evaluate nothing."""

AUTO, OFF = "auto", "none"
"""Where a tracker shall write: at its usual place, or not at all."""

FREE_ON_RESUME = frozenset({"cache", "device", "out", "save_every", "keep", "tensorboard", "wandb"})
"""Fields that may differ when a run goes on, because they change none of its numbers: a cache that was moved is known
by its fingerprint, and a device by its type; see `train.run`."""


@dataclass(frozen=True)
class Settings:
    """Everything that `train run` may be told.

    Raises:
        InputError: anything is out of range; all that is wrong is named at once, by flag.
    """

    cache: str
    """Folder of the cache."""
    model: str | None = None
    """Model to start from: folder, Hub id, or `minilm`. None: the one whose tokenizer made the cache."""
    out: str | None = None
    """Run folder to make. None: the first free runs/<cache name>-<n>."""
    task: str | None = None
    """What to train for: `mlm`, for which any cache will do, or what the cache's labels are for. None: as the cache was
    built."""
    epochs: int = 3
    """Passes over the training split."""
    max_steps: int | None = None
    """Most optimizer steps, over all epochs. None: as many as the epochs have."""
    lr: float = 5e-5
    """Peak learning rate of AdamW."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients, per step."""
    beta2: float = 0.999
    """AdamW's decay of the mean of squared gradients, per step."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; biases and norms are exempt."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0 to its peak."""
    warmup_ratio: float = 0.0
    """The same as a share of all steps, 0 to 1; instead of `warmup_steps`."""
    clip: float = 1.0
    """Largest L2 norm of all gradients together; 0 clips nothing."""
    accumulation: int = 1
    """Micro-batches whose gradients add up to one step; each holds batch size / accumulation rows."""
    precision: str = "auto"
    """fp32, bf16 (autocast), or auto: bf16 where the hardware is built for it."""
    compile: bool = False
    """Whether to compile the model with torch.compile."""
    pooled_only: bool = True
    """Whether to compute the last layer for the pooled token alone, where the model is one of those that can; see
    `train.models.pooled`."""
    cpu_kernels: bool = True
    """Whether a CPU attends by blocks and drops out by raw bits, several times faster than torch does; see
    `train.models.cpu_attention` and `train.models.cpu_dropout`."""
    mask_probability: float | None = None
    """Share of the tokens to hide in training, for task `mlm` only. None: 0.15 there."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps, …"""
    seed: int = 321
    """Seed of the new head, of dropout, and of which tokens are hidden."""
    strategy: str | None = None
    """How batches are planned. None: as the cache was built."""
    batch_size: int | None = None
    """Rows of one optimizer step, over all micro-batches. None: as the cache was built."""
    max_tokens: int | None = None
    """Most padded tokens of one optimizer step; for strategy `budget` only."""
    plan_seed: int | None = None
    """Seed of the plan. None: as the cache was built."""
    pad_to_multiple_of: int | None = None
    """Batch widths are rounded up to a multiple of this, tokens. None: 8 on CUDA, else 1."""
    eval_split: str | None = None
    """Split to evaluate after each epoch, or `none`. None: `test` where the cache has it."""
    eval_rows: int | None = None
    """About how many rows of it to evaluate, in random batches that are always the same. None: all."""
    eval_batch_size: int = 64
    """Rows of one evaluation batch."""
    save_every: int | None = None
    """Steps between checkpoints. None: one at the end of each epoch."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    log_every: int = 10
    """Steps between two records in metrics.jsonl, each of which reads the loss from the device."""
    on_nonfinite: str = "stop"
    """What to do when a loss or gradient is not finite: stop the run, or skip that update."""
    tensorboard: str | None = None
    """Folder in which TensorBoard's curves get a folder of the run's name; `auto`: the run's own `tensorboard`. None or
    `none`: no curves."""
    wandb: str | None = None
    """Project at Weights & Biases to log to; `auto`: that of WANDB_PROJECT, else `lengthwise`. None or `none`: not."""

    def __post_init__(self) -> None:
        wrong = [f"{flag(name)} is {getattr(self, name)!r}, expected {expected}" for name, expected in self._faults()]
        if self.warmup_steps and self.warmup_ratio:
            wrong.append("--warmup-steps and --warmup-ratio are both given, expected one of them")
        if wrong:
            raise InputError("\n".join(wrong))

    def _faults(self) -> list[tuple[str, str]]:
        """(field, what was expected) of each field that is out of range."""
        found = []
        for name, (low, optional) in _INTEGERS.items():
            value = getattr(self, name)
            if not (optional and value is None) and not (type(value) is int and low <= value < 1 << 62):
                found.append((name, f"an integer of {low} or more"))
        for name, (accept, expected) in _NUMBERS.items():
            value = getattr(self, name)
            optional = name == "mask_probability"
            if not (optional and value is None) and not (_is_number(value) and accept(value)):
                found.append((name, expected))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                found.append((name, "one of " + ", ".join(str(choice) for choice in choices if choice)))
        for name in ("model", "out", "eval_split", "tensorboard", "wandb", "cache", "device"):
            optional = name not in ("cache", "device")
            if not (optional and getattr(self, name) is None) and not _is_text(getattr(self, name)):
                found.append((name, "a name"))
        switches = ("compile", "pooled_only", "cpu_kernels")
        found += [(name, "true or false") for name in switches if type(getattr(self, name)) is not bool]
        return found

    def to_json(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Settings from what `to_json` gave; fields left out take their defaults.

        Raises:
            InputError: an unknown field, no cache, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in content if name not in known]
        if unknown or "cache" not in content:
            reason = f"no setting is called {', '.join(map(repr, unknown))}" if unknown else "the cache is not named"
            raise InputError(f"{reason}; the settings are {', '.join(known)}")
        return cls(**content)

    def plan_spec(self, built: PlanSpec) -> PlanSpec:
        """The plan to train on, where settings that were not given are those the cache was `built` with.

        A strategy given alone takes the cache's batch size; a strategy that has no batch size takes none.

        Raises:
            InputError: they contradict each other.
        """
        strategy = self.strategy or built.strategy
        seed = built.seed if self.plan_seed is None else self.plan_seed
        if strategy == "budget":
            tokens = built.max_tokens if self.max_tokens is None else self.max_tokens
            return PlanSpec(strategy, self.batch_size, tokens, seed)
        size = built.batch_size if self.batch_size is None else self.batch_size
        return PlanSpec.of(strategy, size, self.max_tokens, seed)

    def with_plan(self, spec: PlanSpec) -> Self:
        """These settings with the plan's spelled out."""
        return replace(
            self,
            strategy=spec.strategy,
            batch_size=spec.batch_size,
            max_tokens=spec.max_tokens,
            plan_seed=spec.seed,
        )

    def warmup(self, total_steps: int) -> int:
        """Warm-up steps of a run of so many steps."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * total_steps)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML file, a JSON file, or the settings.json of a run, which then names no run folder.

    Raises:
        InputError: it cannot be read, or is not a table of settings.
    """
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}; expected a .toml or .json file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"--config {path} does not parse: {error}") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = {name: value for name, value in content["settings"].items() if name != "out"}
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds a {type(content).__name__}, expected names and values of settings")
    return {name.replace("-", "_"): value for name, value in content.items()}


def flag(name: str) -> str:
    """A field's flag: `batch_size` is --batch-size."""
    return "--" + name.replace("_", "-")


def contradictions(run: Settings, given: Mapping[str, Any]) -> list[str]:
    """What was given on the command line and differs from the settings of a run that is to go on, a line each."""
    settings = run.to_json()
    return [
        f"{flag(name)} is {settings[name]} in the run, {value} was given"
        for name, value in given.items()
        if name not in FREE_ON_RESUME and settings[name] != value
    ]


_INTEGERS = {  # field: lowest value, whether None is allowed
    "epochs": (1, False),
    "max_steps": (1, True),
    "warmup_steps": (0, False),
    "accumulation": (1, False),
    "seed": (0, False),
    "batch_size": (1, True),
    "max_tokens": (1, True),
    "plan_seed": (0, True),
    "pad_to_multiple_of": (1, True),
    "eval_rows": (1, True),
    "eval_batch_size": (1, False),
    "save_every": (1, True),
    "keep": (1, False),
    "log_every": (1, False),
}

_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda v: v > 0, "a number above 0"),
    "eps": (lambda v: v > 0, "a number above 0"),
    "beta1": (lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "beta2": (lambda v: 0 <= v < 1, "a number from 0 to below 1"),
    "weight_decay": (lambda v: v >= 0, "a number of 0 or more"),
    "warmup_ratio": (lambda v: 0 <= v <= 1, "a number from 0 to 1"),
    "clip": (lambda v: v >= 0, "a number of 0 or more"),
    "mask_probability": (lambda v: 0 < v < 1, "a number above 0 and below 1"),
}

_CHOICES = {
    "precision": PRECISIONS,
    "on_nonfinite": ON_NONFINITE,
    "strategy": (None, *STRATEGIES),
    "task": (None, *KINDS),
}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""
