"""The last layer for the pooled token alone gives the stock model's logits and gradients."""

import copy
import itertools
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from train.forward.pooled import use_pooled_only

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
SUPPORTED = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**SMALL, pad_token_id=1),
    "camembert": CamembertConfig(**SMALL, pad_token_id=1),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "distilbert": DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40, num_labels=3
    ),
}


def tiny(name: str, attention: str = "sdpa") -> PreTrainedModel:
    """A tiny random classifier of a kind, dropout off, in double precision."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        copy.deepcopy(SUPPORTED[name]), attn_implementation=attention
    )
    return model.double().eval()


def batch(masked: bool, problem: str = "single_label_classification") -> dict[str, torch.Tensor]:
    """Three rows of up to eleven tokens, with a mask where the shorter ones are padded."""
    torch.manual_seed(1)
    inputs = {"input_ids": torch.randint(5, 100, (3, 11)), "labels": LABELS[problem]}
    if masked:
        inputs["attention_mask"] = (torch.arange(11) < torch.tensor([[11], [7], [2]])).long()
    return inputs


LABELS = {
    "single_label_classification": torch.tensor([0, 2, 1]),
    "multi_label_classification": torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]], dtype=torch.float64),
    "regression": torch.tensor([[0.5, -1, 2], [0, 0, 1], [3, 1, 0]], dtype=torch.float64),
}
"""Of each problem type that transformers knows, for a head of three outputs."""


CASES = [
    (name, attention, masked, list(LABELS)[(number + turn) % 3])
    for number, name in enumerate(SUPPORTED)
    for turn, (attention, masked) in enumerate(itertools.product(["sdpa", "eager"], [False, True]))
]
"""Each kind of model with either attention, with and without padding; each of these with every problem, in turn."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "attention", "masked", "problem"), CASES)
def test_logits_and_all_gradients_equal_the_stock_models(name: str, attention: str, masked: bool, problem: str) -> None:
    """To 1e-12 in double precision, every parameter that has a gradient in one has the same in the other."""
    stock = tiny(name, attention)
    stock.config.problem_type = problem  # type: ignore[assignment]
    pooled = copy.deepcopy(stock)
    assert use_pooled_only(pooled) is None
    results = []
    for model in (stock, pooled):
        output = model(**batch(masked, problem))
        output.loss.backward()
        results.append(output.logits.detach())
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)
    others = dict(pooled.named_parameters())
    for parameter_name, parameter in stock.named_parameters():
        found = others[parameter_name].grad
        assert (found is None) == (parameter.grad is None), parameter_name
        if parameter.grad is not None:
            torch.testing.assert_close(found, parameter.grad, rtol=0, atol=1e-12, msg=parameter_name)


def test_weights_and_state_dict_are_untouched() -> None:
    """Saved and loaded like any other model."""
    stock = tiny("bert")
    pooled = copy.deepcopy(stock)
    use_pooled_only(pooled)
    assert pooled.state_dict().keys() == stock.state_dict().keys()
    assert all(torch.equal(pooled.state_dict()[name], tensor) for name, tensor in stock.state_dict().items())


def test_the_last_layer_computes_one_token() -> None:
    """Its feed-forward network sees (B, 1, H); the layer before sees every token."""
    model = tiny("bert")
    use_pooled_only(model)
    seen = []
    for layer in model.base_model.encoder.layer:
        layer.intermediate.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    model(**batch(masked=False))
    assert seen == [(3, 11, 32), (3, 1, 32)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_layer_of_another_build_stays_stock_with_a_reason(pooling: str) -> None:
    """ModernBERT, whatever it pools, and DeBERTa."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    for config in (ModernBertConfig(**SMALL, **ids, classifier_pooling=pooling), DebertaV2Config(**SMALL)):
        model = AutoModelForSequenceClassification.from_config(config)
        before = [vars(module).get("forward") for module in model.modules()]
        assert use_pooled_only(model) == f"layers of {type(model).__name__} are not supported"
        assert [vars(module).get("forward") for module in model.modules()] == before


def test_a_head_that_reads_every_token_stays_stock_with_a_reason() -> None:
    """Its encoder's last layer is left as it is."""
    masked = AutoModelForMaskedLM.from_config(BertConfig(**SMALL))
    assert "reads more than one token" in use_pooled_only(masked)
    assert "forward" not in vars(masked.base_model.encoder.layer[-1])


def test_dropout_still_drops() -> None:
    """In training two passes differ, in evaluation they do not."""
    model = tiny("bert")
    use_pooled_only(model)
    inputs = batch(masked=True)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
