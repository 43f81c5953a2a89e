"""Steps on torch's meta device, which holds no values: what reads one, and would make the host wait for a GPU, raises,
and so does what mixes the tensors of two devices. CUDA's attention over packed rows has its shapes checked there."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cache import Batch, Cache
from cache.plans.spec import PlanSpec
from tests.helpers.caches import write_cache
from tests.helpers.models import WINDOWED, write_model
from train.forward.inputs import use_ready_masks
from train.forward.packed import use_packed
from train.forward.pooled import use_pooled_only
from train.kernels.packed_attention import packed_attention
from train.loop.loss_scale import LossScale
from train.loop.setup import TrainingSetup, make_optimizer
from train.loop.state import Meter, State
from train.loop.step import backward, update
from train.models.fit import CacheRequirements
from train.models.loading import load_model
from train.settings import Settings

META, CUDA = torch.device("meta"), torch.device("cuda")
MODELS = {"bert": {}, "modernbert": WINDOWED}


class Calls(TorchDispatchMode):
    """Keeps the tensors that CUDA's attention over packed rows was given, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[torch.Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("_flash_attention_forward", "_efficient_attention_forward"):
            self.found[name] = [part for part in args if isinstance(part, torch.Tensor)]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "_flash"), (torch.float32, "_efficient")])
@pytest.mark.parametrize("width", [26, 32])
def test_cuda_attention_gets_heads_of_a_multiple_of_8(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, name: str, width: int
) -> None:
    """Others, such as TinyBERT's 26, are padded; values and gradients have the shapes of what was given."""
    monkeypatch.setattr("train.kernels.packed_attention.has_flash_attention", lambda device: True)
    parts = [torch.empty(1, 4, tokens, width, dtype=dtype, device=META, requires_grad=True) for tokens in (3, 20, 20)]
    ends = [torch.empty(4, dtype=torch.int32, device=META) for _ in range(2)]
    with Calls() as calls:
        out = packed_attention(*parts, 0.1, 0.5, (ends[0], ends[1]), (1, 9))
    assert out.shape == (1, 3, 4, width)
    if dtype == torch.bfloat16:  # the other's gradient has no shape function in torch 2.13
        gradients = torch.autograd.grad(out.sum(), parts)
        assert [gradient.shape for gradient in gradients] == [part.shape for part in parts]
    (given,) = calls.found.values()
    assert list(calls.found) == [f"{name}_attention_forward"]
    assert all(part.shape[-1] == width + -width % 8 and part.stride(-1) == 1 for part in given[:3])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 8})


def on_meta(batch: Batch) -> Batch:
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: part.to(META) for name, part in parts.items() if isinstance(part, torch.Tensor)})


def prepared(toy: Cache, folder: Path, kind: str, packed: bool = False) -> TrainingSetup:
    """A classifier on the meta device, with the optimizations of CUDA."""
    settings = Settings(cache=str(toy.folder), precision="fp32", gradient_accumulation_steps=2)
    model = load_model(write_model(folder / "model", kind=kind, **MODELS[kind]), CacheRequirements(toy, 48), 0)
    use_ready_masks(model)
    use_pooled_only(model)
    if packed:
        model.bfloat16()
        assert use_packed(model, CUDA, "bf16") is None
    model.to(META)
    optimizer = make_optimizer(model, settings)
    setup = TrainingSetup(model, model, optimizer, toy, toy["train"], PlanSpec("dynamic", 8), settings, META, (2,), {})
    return replace(setup, loss_scale=LossScale(META)) if packed else setup


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "packed"), [("bert", False), ("bert", True), ("modernbert", True)])
def test_a_step_reads_no_value_and_keeps_to_its_device(
    toy: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: None)  # the fused one knows no meta device
    setup = prepared(toy, tmp_path, kind, packed)
    state = State(Meter(META))
    batches = list(map(on_meta, toy["train"].batches(0, setup.spec, gradient_accumulation_steps=2, packed=packed)))
    assert len(batches) == 2
    without_labels = replace(batches[-1], targets=0, step_targets=0)
    for batch in (*batches, without_labels):
        state.meter.add(batch, backward(setup, batch))
        if batch.last:
            update(setup, state)
            assert state.meter.norm.device == META
    assert state.step == 2
