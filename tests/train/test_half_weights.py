"""Weights cast once for a forward and backward pass: the numbers of autocast, with fewer operations."""

import copy
from typing import Any

import pytest
import torch
from torch.profiler import profile
from transformers import AutoModelForMaskedLM, PreTrainedModel

from train.forward.frozen import freeze, use_gradient_checkpointing
from train.forward.half_weights import HalfWeights

from ..helpers.models import DISTIL, random_model

OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": DISTIL,
}
CPU = torch.device("cpu")


def tiny(kind: str, auto: Any = None) -> PreTrainedModel:
    model: PreTrainedModel = random_model(kind, auto, num_hidden_layers=2, **OWN.get(kind, {}))
    return model


def gradients(model: PreTrainedModel, half: HalfWeights, dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    """Those of each parameter, from two micro-batches, and under "logits" what the last one gave."""
    torch.manual_seed(1)
    for width in (16, 9):
        ids = torch.randint(5, 60, (2, width))
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        with half.in_use(), torch.autocast("cpu", dtype):
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return {"logits": logits.detach(), **{name: weight.grad for name, weight in model.named_parameters()}}


def assert_same(model: PreTrainedModel, precision: str = "bf16") -> dict[str, torch.Tensor | None]:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    expected = gradients(copy.deepcopy(model), HalfWeights(model, "fp32"), dtype)
    half = HalfWeights(model, precision)
    before = dict(model.named_parameters())
    found = gradients(model, half, dtype)
    assert half.places
    for name, value in expected.items():
        assert (value is None) == (found[name] is None), name
        assert value is None or (found[name].dtype == torch.float32 and torch.equal(value, found[name])), name
    assert all(before[name] is weight for name, weight in model.named_parameters())
    return found


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert", "deberta-v2", "modernbert"])
def test_logits_and_gradients_are_those_of_autocast(kind: str) -> None:
    """To the bit, with dropout and a mask; of a layer that is used several times, too."""
    assert_same(tiny(kind))


def test_in_fp16_too() -> None:
    assert_same(tiny("bert"), "fp16")


def test_a_decoder_that_is_the_embeddings_is_left_to_autocast() -> None:
    model = tiny("bert", AutoModelForMaskedLM)
    assert_same(model)
    decoder, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert decoder.weight is embeddings.weight
    assert not any(parameters is decoder._parameters for parameters, name in HalfWeights(model, "bf16").places)


def test_what_is_frozen_or_not_used_has_no_gradient() -> None:
    model = tiny("bert")
    freeze(model, 1)
    model.bert.encoder.layer[1].unused = torch.nn.Linear(2, 2)
    found = assert_same(model)
    without = {name for name, gradient in found.items() if gradient is None}
    assert any("layer.0.output.dense" in name for name in without)
    assert any("unused" in name for name in without)


def test_activations_that_are_computed_again_see_the_same_copies() -> None:
    model = tiny("bert")
    use_gradient_checkpointing(model, CPU)
    assert_same(model)


def test_an_error_leaves_the_weights_in_place() -> None:
    model = tiny("bert")
    before = dict(model.named_parameters())
    with pytest.raises(ValueError, match="in between"), HalfWeights(model, "bf16").in_use():
        assert model.bert.pooler.dense.weight.dtype == torch.bfloat16
        raise ValueError("in between")
    assert all(before[name] is weight for name, weight in model.named_parameters())


def test_a_pass_casts_no_weight_by_itself() -> None:
    """Of two layers and a head 28 weights and biases, cast in forward and their gradients in backward."""
    casts = []
    for precision in ("fp32", "bf16"):
        model = tiny("bert")
        with profile() as profiled:
            gradients(model, HalfWeights(model, precision), torch.bfloat16)
        casts.append(sum(event.count for event in profiled.key_averages() if event.key == "aten::_to_copy"))
    assert casts[0] - casts[1] == 2 * 28 * 2  # micro-batches, weights, directions
