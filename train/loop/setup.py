"""What a run trains: the model, optimizer, plan and device that its resolved settings give."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from cache import Batch, Cache, Split
from cache.batches.batches import Batches
from cache.format.tasks import MLM, TOKENS
from cache.plans.spec import PlanSpec

from ..forward.frozen import freeze, use_gradient_checkpointing
from ..forward.half_weights import HalfWeights
from ..forward.inputs import PADDING_SIDE, attention_length, takes_token_types, use_ready_masks
from ..forward.losses import Loss, model_loss, training_loss
from ..forward.masked_lm import PROBABILITY, Masking, masked_forward, summed_loss
from ..forward.packed import check_packed, use_packed
from ..forward.pooled import use_pooled_only
from ..kernels.cpu_attention import use_cpu_kernels
from ..run_folder.export import exported_tokenizer
from ..run_folder.folder import Json, RunInfo
from ..runtime import device as devices
from ..runtime.distributed import ALONE, Ranks
from ..runtime.launch import launch_id
from ..settings import FREE_ON_RESUME, NO_SPLIT, Settings
from .loss_scale import LossScale
from .resolution import corpus_metric, epoch_steps, training_split


@dataclass(frozen=True)
class ModelOptimizations:
    """Why each optimization of the model is not used; None where it is.

    Attributes:
        all_tokens_reason: why the last layer, or the head of a masked language model, is computed for every token.
        torch_kernels_reason: why attention and dropout are torch's and not `cpu_attention` and `cpu_dropout`.
        padded_reason: why batches are padded and not packed, see `packed`.
    """

    all_tokens_reason: str | None = None
    torch_kernels_reason: str | None = None
    padded_reason: str | None = "--padded"


@dataclass(frozen=True)
class TrainingSetup:
    """What does not change during a run.

    Attributes:
        model: the classifier, or the masked language model, on `device`.
        forward: the model, or its compiled form; in masked language modelling a `masked_lm.Forward`.
        optimizer: a fused AdamW.
        cache: the cache.
        split: the rows to train on.
        spec: their plan.
        settings: resolved, with nothing left at `auto`.
        device: where to compute.
        steps: optimizer steps of each epoch; `max_steps` may cut the last one short.
        tokenizer: content by name of the tokenizer's files, for the exported model; read before training, because the
            cache may be replaced meanwhile.
        optimizations: which optimizations the model computes with.
        masking: how tokens are masked; None unless the task is masked language modelling.
        loss: mean loss of a batch; not used in masked language modelling.
        loss_scale: the factor of losses in fp16; None in other precisions.
        ranks: the processes that share the run.
        parallel: `compute_loss` as a module that takes the mean of gradients over ranks; None for a process alone.
    """

    model: PreTrainedModel
    forward: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    cache: Cache
    split: Split
    spec: PlanSpec
    settings: Settings
    device: torch.device
    steps: tuple[int, ...]
    tokenizer: dict[str, bytes]
    optimizations: ModelOptimizations = ModelOptimizations()
    masking: Masking | None = None
    loss: Loss = model_loss
    loss_scale: LossScale | None = None
    ranks: Ranks = ALONE
    parallel: DistributedDataParallel | None = None

    @cached_property
    def half_weights(self) -> HalfWeights:
        """The weights that are cast together; none with torch.compile, or where DistributedDataParallel has to see
        which ones are not used."""
        unused = self.parallel is not None and self.parallel.find_unused_parameters
        return HalfWeights(self.model, "fp32" if self.settings.compile or unused else self.settings.precision)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(self.steps)

    @property
    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimizer updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def mean_rows(self) -> float | None:
        """Rows that fill the budget of a `budget` batch on average; None where steps count the same as they are, of
        equally many rows or, where tokens have losses of their own, equally many tokens."""
        if self.spec.max_tokens is None or self.settings.task in (TOKENS, MLM):
            return None
        return self.spec.max_tokens * self.split.info.rows / max(self.split.info.tokens, 1)

    def split_named(self, name: str | None) -> Split | None:
        """A split that a setting names; None where it names none."""
        return None if name in (None, NO_SPLIT) else self.cache[str(name)]

    @property
    def packed(self) -> bool:
        """Whether the model is trained on packed batches."""
        return self.optimizations.padded_reason is None

    def logs_at(self, step: int) -> bool:
        """Whether a step of the run is recorded although its epoch goes on."""
        every = (self.settings.logging_steps, self.settings.eval_steps)
        return any(steps is not None and step % steps == 0 for steps in every)

    def compute_loss(self, inputs: dict[str, Any], counts: bool) -> torch.Tensor:
        """() the loss of a micro-batch: the mean over its targets, or summed over the masked tokens, whose positions
        are among the inputs. Unless it `counts`, for it has no target, the loss is 0, and so are the gradients."""
        if self.masking is not None:
            return summed_loss(self.forward, **inputs)[0]
        if counts:
            return self.loss(self.forward, inputs)
        logits: torch.Tensor = self.forward(
            **{name: value for name, value in inputs.items() if name != "labels"}
        ).logits
        return logits.float().sum() * 0.0

    def epoch_batches(self, epoch: int, start: int, packed: bool | None = None, equal_rows: bool = False) -> Batches:
        """An epoch of the plan from step `start` on, packed as the property says unless told otherwise."""
        return self.split.batches(
            epoch,
            self.spec,
            device=self.device,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            gradient_accumulation_steps=self.settings.gradient_accumulation_steps,
            equal_rows=equal_rows,
            attention_length=attention_length(self.model.config),
            start=start,
            pad_to_multiple_of=self.settings.pad_to_multiple_of or 1,
            padding_side=PADDING_SIDE,
            packed=self.packed if packed is None else packed,
        )

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The micro-batches of an epoch from step `start` to its end in this run."""
        for batch in self.epoch_batches(epoch, start):
            if batch.step == self.steps[epoch]:
                return
            yield batch if self.masking is None else self.masking.mask(batch, epoch)


def prepare_training(
    model: PreTrainedModel, cache: Cache, settings: Settings, device: torch.device, ranks: Ranks = ALONE
) -> TrainingSetup:
    """Put a model of the settings' task on its device, with its optimizations and optimizer; the settings are
    resolved."""
    devices.prepare(device)
    split = training_split(cache)
    spec = settings.plan_spec(split.default_spec())
    model = model.to(device)  # type: ignore[arg-type]  # transformers types `to` as for half-loaded models
    if settings.freeze is not None:
        freeze(model, settings.freeze)
    if settings.gradient_checkpointing:
        use_gradient_checkpointing(model, device)
    forward, optimizations = _optimized(model, settings, device)
    masking = None
    if settings.task == MLM:
        masking = Masking.of(split, device, settings.seed, settings.mlm_probability or PROBABILITY)
    return TrainingSetup(
        model=model,
        forward=forward,
        optimizer=make_optimizer(model, settings),
        cache=cache,
        split=split,
        spec=spec,
        settings=settings,
        device=device,
        steps=epoch_steps(split, spec, settings),
        tokenizer=exported_tokenizer(cache, takes_token_types(model.config)),
        optimizations=optimizations,
        masking=masking,
        loss=training_loss(split, settings.class_weights, settings.label_smoothing, device),
        loss_scale=LossScale(device) if settings.precision == "fp16" else None,
        ranks=ranks,
    )


def _optimized(
    model: PreTrainedModel, settings: Settings, device: torch.device
) -> tuple[Callable[..., Any], ModelOptimizations]:
    """Give a model the optimizations that the settings and itself allow; returns its forward, and which they are."""
    torch_kernels: str | None = "--no-cpu-kernels"
    if settings.cpu_kernels:
        torch_kernels = "--compile" if settings.compile else use_cpu_kernels(model, device)
    use_ready_masks(model)
    forward: Callable[..., Any] = model
    if settings.task == MLM:
        forward, all_tokens = masked_forward(model)
    else:
        all_tokens = use_pooled_only(model) if settings.pooled_only else "--no-pooled-only"
    padded: str | None = "--padded"
    if settings.padding_free:
        padded = "--compile" if settings.compile else use_packed(model, device, settings.precision)
    if settings.compile:
        forward = torch.compile(forward)
    return forward, ModelOptimizations(all_tokens, torch_kernels, padded)


def check_padding_free(setup: TrainingSetup) -> None:
    """Raise a MismatchError if the first micro-batch, where it is packed, differs from what the padded forward gives
    for its rows."""
    if setup.packed:
        packed, padded = (setup.epoch_batches(0, 0, kind, equal_rows=True).step(0)[0] for kind in (True, False))
        check_packed(setup.model, packed, padded, setup.settings.precision)


def make_optimizer(model: PreTrainedModel, settings: Settings) -> torch.optim.Optimizer:
    """A fused AdamW; biases and norms (parameters of fewer than two axes) are exempt from weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained, "weight_decay": 0.0}]
    if settings.weight_decay:
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
    betas = (float(settings.beta1), float(settings.beta2))  # torch refuses one integer, as a file may hold
    return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=True)


# --- what the run folder records


def run_info(setup: TrainingSetup, digest: str) -> RunInfo:
    """The content of settings.json; `digest` is that of the model the run starts from."""
    manifest, launch = setup.cache.manifest, launch_id()
    return RunInfo(
        settings=setup.settings,
        cache_name=manifest.name,
        cache_fingerprint=manifest.fingerprint,
        model_digest=digest,
        max_length=manifest.max_length,
        total_steps=setup.total_steps,
        metric=corpus_metric(setup.cache, str(setup.settings.task)),
        environment={**environment(setup.device, setup.ranks), **({"launch": launch} if launch else {})},
    )


def environment(device: torch.device, ranks: Ranks) -> Json:
    """What a run's numbers depend on beside its settings, in their last digits or in dropout's choices."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": devices.device_name(device),
        "threads": torch.get_num_threads(),
        **({"ranks": ranks.world_size} if ranks.several else {}),
    }


def checkpoint_owner(info: RunInfo) -> Json:
    """What a checkpoint belongs to: everything that determines the run's numbers."""
    settings = {name: value for name, value in info.settings.to_json().items() if name not in FREE_ON_RESUME}
    return {"cache": info.cache_fingerprint, "base_model": info.model_digest, "settings": settings}
