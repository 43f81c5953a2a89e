"""Attention and dropout on the CPU: what they compute, what they drop, and that a seed settles it."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from train.kernels import block_attention
from train.kernels.cpu_attention import NAME, blocked_attention, use_cpu_kernels
from train.kernels.cpu_dropout import dropout, use_raw_bits

from ..helpers.models import random_model

CPU = torch.device("cpu")
ROWS, HEADS, KEYS = 5, 2, 16
P = 0.25
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def states(dtype: torch.dtype = torch.float64, queries: int = KEYS) -> Triple:
    """Queries, keys and values of `ROWS` rows, (B, N, tokens, D) as models hand them over."""
    torch.manual_seed(0)
    parts = [torch.randn(ROWS, tokens, HEADS, KEYS, dtype=dtype) for tokens in (queries, KEYS, KEYS)]
    query, key, value = (part.transpose(1, 2).requires_grad_() for part in parts)
    return query, key, value


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, p: float
) -> torch.Tensor:
    """(B, N, Q, D), its random numbers always the same."""
    torch.manual_seed(1)
    return blocked_attention(nn.Module(), query, key, value, mask, dropout=p, scaling=0.3)[0].transpose(1, 2)


def padding_mask(queries: int = KEYS) -> torch.Tensor:
    """(B, 1, Q, K): rows of 16, 12, 9, 4 and 1 tokens."""
    return (torch.arange(KEYS) < torch.tensor([[16], [12], [9], [4], [1]]))[:, None, None].expand(-1, 1, queries, -1)


@pytest.mark.parametrize("block", [1, 3 * HEADS * KEYS * KEYS * 8, 1 << 20], ids=["a row", "three rows", "all"])
@pytest.mark.parametrize("queries", [KEYS, 1])
@pytest.mark.parametrize("masked", [False, True], ids=["uniform", "padded"])
def test_attention_and_its_gradients_equal_the_formula(
    masked: bool, queries: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """softmax(q kᵀ scale), what dropout keeps of it over 1 - p, times v; which it keeps is read off with v = 1."""
    monkeypatch.setattr(block_attention, "BLOCK_BYTES", block)
    query, key, value = states(queries=queries)
    mask = padding_mask(queries) if masked else None
    shown = attend(query, key, torch.eye(KEYS, dtype=torch.float64).expand_as(value), mask, P).detach()
    found = attend(query, key, value, mask, P)

    scores = query @ key.mT * 0.3
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1) * (shown != 0) / (1 - P) @ value
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(expected)
    for ours, reference in zip(
        torch.autograd.grad((found * weights).sum(), (query, key, value)),
        torch.autograd.grad((expected * weights).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["uniform", "padded"])
def test_in_bf16_it_is_as_near_to_the_truth_as_eager_attention(masked: bool) -> None:
    """Against double precision, the relative error of output and gradients is at most 1.5 times that of plain bf16."""
    mask = padding_mask() if masked else None

    def eager(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = query @ key.mT * 0.3
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ value

    query, key, value = states(torch.bfloat16)
    results = []
    for forward, dtype in ((eager, torch.float64), (eager, torch.bfloat16), (attend, torch.bfloat16)):
        inputs = [part.detach().to(dtype).requires_grad_() for part in (query, key, value)]
        out = forward(*inputs) if forward is eager else attend(*inputs, mask, 0.0)  # type: ignore[call-arg]
        results.append([out, *torch.autograd.grad(out.double().square().sum(), inputs)])
    for truth, plain, ours in zip(*results, strict=True):
        assert (ours - truth).norm() <= 1.5 * (plain - truth).norm()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_attention_drops_at_its_rate_and_independently(dtype: torch.dtype) -> None:
    """Of 2 M probabilities a share p, within five standard deviations; neighbours do not go together."""
    size = 256
    query = torch.zeros(4, 8, size, 8, dtype=dtype)  # all probabilities are 1 / size
    torch.manual_seed(3)
    weights = blocked_attention(
        nn.Module(), query, query, torch.eye(size, dtype=dtype).expand(4, 8, size, size), None, dropout=0.1
    )[0]
    dropped = (weights == 0).double()  # (4, size, 8, size)
    count = dropped.numel()
    assert abs(dropped.mean() - 0.1) < 5 * (0.09 / count) ** 0.5 + 2**-15
    for one, other in ((dropped[..., 1:], dropped[..., :-1]), (dropped[:, 1:], dropped[:, :-1])):
        together = (one * other).mean()
        assert abs(together - 0.01) < 5 * (0.0099 / count) ** 0.5 + 2**-13
    torch.testing.assert_close(weights.max().double(), torch.tensor(1 / size / 0.9).double(), rtol=1e-2, atol=0)


def test_a_row_that_sees_nothing_is_finite() -> None:
    """Its output is never read, but a nan in it would reach every gradient."""
    query, key, value = states(torch.bfloat16)
    for mask in (torch.zeros(ROWS, 1, KEYS, KEYS, dtype=torch.bool), torch.full((ROWS, 1, 1, KEYS), -torch.inf)):
        out = attend(query, key, value, mask, 0.1)
        assert out.isfinite().all()
        assert all(part.isfinite().all() for part in torch.autograd.grad(out.sum(), (query, key, value)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_dropout_scales_what_it_keeps_forward_and_backward(dtype: torch.dtype) -> None:
    """A value is 0 or divided by 1 - p, its gradient likewise, at the rate p; not at all in evaluation."""
    module = nn.Dropout(0.1)
    values = torch.full((500, 1001), 3.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(0)
    out = dropout(module, values)
    kept = out != 0
    assert abs(kept.double().mean() - 0.9) < 5 * (0.09 / values.numel()) ** 0.5 + 2**-15
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 3 / 0.9))
    (grad,) = torch.autograd.grad(out.sum(), values)
    torch.testing.assert_close(grad, kept / torch.tensor(0.9, dtype=dtype), rtol=1e-2, atol=0)
    assert dropout(module.eval(), values) is values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_probability_next_to_0_or_1_is_met_to_within_2_to_the_minus_15(dtype: torch.dtype) -> None:
    ones = torch.ones(100_000, dtype=dtype)
    assert (dropout(nn.Dropout(1e-9), ones) == 0).double().mean() < 1e-3
    assert (dropout(nn.Dropout(1 - 1e-9), ones) == 0).double().mean() > 1 - 1e-3


def test_a_models_numbers_follow_torchs_seed() -> None:
    """The same seed, the same dropout; another, another."""
    model = random_model(num_hidden_layers=2, num_attention_heads=4).train()
    assert use_cpu_kernels(model, CPU) is None
    ids = torch.randint(5, 50, (4, 9))
    logits = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        logits.append(model(input_ids=ids).logits.detach())
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_in_evaluation_logits_are_the_stock_models(tmp_path: Path) -> None:
    """Exactly so in fp32, and nothing of it is saved with the model."""
    stock = random_model(num_hidden_layers=2, num_attention_heads=4).eval()
    ours = copy.deepcopy(stock)
    use_cpu_kernels(ours, CPU)
    ids, mask = torch.randint(5, 50, (4, 9)), (torch.arange(9) < torch.tensor([[9], [5], [2], [1]])).long()
    with torch.no_grad():
        for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
            torch.testing.assert_close(ours(**inputs).logits, stock(**inputs).logits, rtol=0, atol=1e-6)
    ours.save_pretrained(tmp_path)
    assert "lengthwise" not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation != NAME
    assert ours.state_dict().keys() == stock.state_dict().keys()


def test_a_model_with_attention_of_its_own_keeps_it() -> None:
    """DeBERTa's is no function of queries, keys and values alone; its dropout is served all the same."""
    model = random_model("deberta-v2", num_hidden_layers=2)
    assert "not sdpa" in use_cpu_kernels(model, CPU)
    assert use_cpu_kernels(model, torch.device("meta")) == "meta has kernels of its own"
    plain = nn.Sequential(nn.Dropout(0.5))
    use_raw_bits(plain)
    assert (plain(torch.ones(1000)) == 0).any()
