"""Class weights, label smoothing, frozen layers and gradient checkpointing, each against a plain computation."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cache import Cache, open_cache
from cache.errors import InputError
from cache.format.tasks import IGNORED
from tests.helpers.builds import build_toy
from tests.helpers.caches import write_cache
from tests.helpers.files import write_jsonl
from tests.helpers.models import write_model
from tests.helpers.runs import begin, check_same_run, resume_from_first_checkpoint, start
from train.forward import frozen
from train.forward.frozen import freeze, layers_of
from train.forward.inputs import model_inputs
from train.forward.losses import balanced_weights, resolve_weights
from train.loop.resolution import cache_requirements, resolve_settings
from train.loop.setup import TrainingSetup, prepare_training
from train.loop.step import backward
from train.models.configuration import read_config
from train.models.folder import ModelFolder
from train.models.loading import load_model, load_weights
from train.settings import Settings

pytestmark = pytest.mark.slow

CLASSES = ("neg", "mixed", "pos")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of three classes, a cache of tags, one of numbers, and a model."""
    folder = tmp_path_factory.mktemp("losses")
    write_cache(folder / "toy", {"train": 60, "test": 20}, classes=CLASSES)
    write_model(folder / "model", num_hidden_layers=2)
    words = [
        {"tokens": [f"word{n}", f"word{n + 3} word1", "word2"][: 1 + n % 3], "tags": ["O", "B-X", "O"][: 1 + n % 3]}
        for n in range(30)
    ]
    numbers = [{"text": f"word{n} word{n % 7}", "label": n / 4} for n in range(30)]
    for name, rows, more in (("tags", words, {}), ("numbers", numbers, {"task": "regression"})):
        source = write_jsonl(folder / f"{name}.jsonl", rows)
        shutil.move(build_toy(source, folder, holdout=0.3, **more).cache.folder, folder / name)
    return folder


def resolved(folder: Path, cache: str, **flags: Any) -> tuple[Cache, Settings]:
    opened = open_cache(folder / cache)
    common = {"precision": "fp32", "device": "cpu", "epochs": 1, "batch_size": 8}
    given = Settings(cache=str(folder / cache), model=str(folder / "model"), **{**common, **flags})
    return opened, resolve_settings(given, opened)[0]


def prepared(folder: Path, cache: str = "toy", **flags: Any) -> TrainingSetup:
    opened, settings = resolved(folder, cache, **flags)
    model = load_model(folder / "model", cache_requirements(opened, settings), settings.seed)
    return prepare_training(model, opened, settings, torch.device("cpu"))


def step_gradients(setup: TrainingSetup, train: bool = False) -> tuple[float, torch.Tensor]:
    """The mean loss of the first step and its gradients, in one vector."""
    setup.model.train(train)
    torch.manual_seed(5)
    batches = [batch for batch in setup.batches(0, 0) if batch.step == 0]
    loss = sum(float(backward(setup, batch)) for batch in batches) / batches[0].step_targets
    grads = [parameter.grad.ravel() for parameter in setup.trained_parameters if parameter.grad is not None]
    return loss, torch.cat(grads)


def write_weights(folder: Path, cache: str) -> str:
    names = open_cache(folder / cache).manifest.task.label_names
    path = folder / f"{cache}-weights.json"
    path.write_text(json.dumps({name: 0.5 + 2 * number for number, name in enumerate(names)}))
    return str(path)


@pytest.mark.parametrize(
    ("cache", "pieces", "weighted"),
    [("toy", 1, True), ("toy", 3, True), ("tags", 1, True), ("tags", 3, True), ("toy", 3, False)],
)
def test_weights_and_smoothing_are_those_of_the_formula_whatever_the_accumulation(folder, cache, pieces, weighted):
    """Per target: weight of its class x (0.9 of its own negative log probability + 0.1 of the weighted mean of all)."""
    setup = prepared(
        folder,
        cache,
        class_weights=write_weights(folder, cache) if weighted else None,
        label_smoothing=0.1,
        gradient_accumulation_steps=pieces,
    )
    loss, gradient = step_gradients(setup)

    reference = prepared(folder, cache)
    reference.model.eval()
    batch = next(iter(reference.batches(0, 0)))
    inputs = model_inputs(batch, reference.model.config)
    labels = inputs.pop("labels").reshape(-1)
    log_p = reference.model(**inputs).logits.reshape(len(labels), -1).double().log_softmax(-1)
    weights = torch.tensor([0.5 + 2 * n if weighted else 1.0 for n in range(log_p.shape[1])])
    total, targets = torch.zeros((), dtype=torch.float64), 0
    for row, label in zip(log_p, labels.tolist(), strict=True):
        if label != IGNORED:
            spread = sum(weights[c] * row[c] for c in range(len(row))) / len(row)
            total, targets = total - 0.9 * weights[label] * row[label] - 0.1 * spread, targets + 1
    (total / targets).backward()
    expected = torch.cat([p.grad.ravel() for p in reference.trained_parameters if p.grad is not None])
    assert loss == pytest.approx(float(total.detach() / targets), rel=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("cache", ["toy", "tags"])
def test_balanced_weights_are_rows_over_classes_times_rows_of_the_class(folder, cache):
    split = open_cache(folder / cache)["train"]
    labels = [label for row in split for label in ([row.label] if cache == "toy" else row.label) if label != IGNORED]
    counts, classes = Counter(labels), len(split.task.label_names)
    assert len(set(counts.values())) > 1
    found = balanced_weights(split)
    assert found.tolist() == pytest.approx([len(labels) / (classes * counts[c]) for c in range(classes)])
    assert sum(found[label] for label in labels) / len(labels) == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"neg": 1, "mixed": 2}', "wrong for 'pos'"),
        ('{"neg": 1, "mixed": 2, "pos": 1, "other": 1}', "wrong for 'other'"),
        ('{"neg": 0, "mixed": -1, "pos": true}', "wrong for 'neg', 'mixed', 'pos'; expected a number above 0"),
        ('{"neg": NaN, "mixed": Infinity, "pos": "1"}', "wrong for 'neg', 'mixed', 'pos'"),
        ("[1, 2, 3]", "expected a JSON object such as"),
        ("neg: 1", "is not JSON"),
        (None, "No such file or directory; expected balanced or a JSON file"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_what_is_expected(folder, tmp_path, content, message):
    path = tmp_path / "weights.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        resolved(folder, "toy", class_weights=str(path))


def test_weights_are_kept_in_the_settings_and_not_by_their_path(folder):
    _, settings = resolved(folder, "toy", class_weights=write_weights(folder, "toy"))
    assert json.loads(str(settings.class_weights)) == {"neg": 0.5, "mixed": 2.5, "pos": 4.5}
    assert resolve_weights(settings.class_weights, 0, open_cache(folder / "toy").manifest.task, "classification") == (
        settings.class_weights
    )


@pytest.mark.parametrize(("cache", "task"), [("numbers", "regression"), ("toy", "mlm")])
def test_other_losses_take_neither_weights_nor_smoothing(folder, cache, task):
    with pytest.raises(
        InputError, match=f"--class-weights and --label-smoothing: for .* only, but this run is for {task}"
    ):
        resolved(folder, cache, task=task, class_weights="balanced", label_smoothing=0.1)


def test_frozen_layers_stay_as_they_were_and_the_others_learn(folder, tmp_path):
    setup = prepared(folder, freeze=1)
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    run = start(replace(setup.settings, out=str(tmp_path / "run")))
    after = load_file(run / "model" / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    frozen = {name for name in after if ".embeddings." in name or ".layer.0." in name}
    assert changed == after.keys() - frozen
    assert len(frozen) > 15


def test_a_frozen_model_has_the_gradients_of_the_whole_one_where_it_is_trained(folder):
    frozen, whole = prepared(folder, freeze=1), prepared(folder)
    step_gradients(frozen)
    step_gradients(whole)
    for (name, one), other in zip(frozen.model.named_parameters(), whole.model.parameters(), strict=True):
        assert (one.grad is None) == (not one.requires_grad) == (".embeddings." in name or ".layer.0." in name)
        assert one.grad is None or torch.equal(one.grad, other.grad)


def test_more_layers_than_there_are_cannot_be_frozen(folder):
    with pytest.raises(InputError, match="--freeze 3: the model has 2 layers"):
        prepared(folder, freeze=3)


CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2},
    "modernbert": {},
    "deberta-v2": {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
    "mpnet": {},
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_layers_of_each_kind_of_model_are_found_and_nothing_below_is_trained_where_they_are_frozen(tmp_path, kind):
    """Neither what makes embeddings wide nor those of relative positions: backward would go through frozen layers."""
    folder = write_model(tmp_path / "model", kind=kind, classes=2, num_hidden_layers=3, **CONFIGS[kind])
    with ModelFolder(folder) as opened:
        model = load_weights(opened, read_config(opened), "classification")[0]
    layers = layers_of(model)
    assert layers is not None
    assert len(layers) == 3
    assert isinstance(model.base_model.embeddings, torch.nn.Module)
    freeze(model, 2)
    outputs: list[Any] = []
    for layer in layers[1:]:
        layer.register_forward_hook(lambda *given: outputs.append(given[-1]))
    model(input_ids=torch.tensor([[5, 6, 7]]))
    below, above = (output if isinstance(output, torch.Tensor) else output[0] for output in outputs)
    assert above.requires_grad
    assert not below.requires_grad


@pytest.mark.parametrize("flags", [{}, {"cpu_kernels": False}, {"pooled_only": False}])
def test_gradient_checkpointing_gives_the_same_gradients_with_dropout_on(folder, flags):
    plain, checkpointed = (prepared(folder, gradient_checkpointing=on, **flags) for on in (False, True))
    calls = []
    layers_of(checkpointed.model)[0].attention.register_forward_hook(lambda *_: calls.append(1))
    (loss, expected), (same, found) = step_gradients(plain, train=True), step_gradients(checkpointed, train=True)
    assert len(calls) == 2  # in forward, and again in backward
    assert loss == same
    assert torch.equal(found, expected)


def test_gradient_checkpointing_is_refused_where_dropout_is_not_repeated(folder, monkeypatch):
    """As on MPS, where torch takes no notice of the device's random state: gradients would be wrong, and nothing would
    tell."""
    forgetful = partial(frozen.checkpoint, preserve_rng_state=False)
    monkeypatch.setattr(frozen, "checkpoint", forgetful)
    with pytest.raises(InputError, match="does not repeat dropout's random numbers on cpu, so gradients would"):
        prepared(folder, gradient_checkpointing=True)


def test_a_run_with_all_of_them_resumes_bit_by_bit(folder, tmp_path):
    """Weights, smoothing, frozen layers, gradient checkpointing, with dropout and accumulation; the file of the weights
    may be gone."""
    weights = Path(write_weights(folder, "toy"))
    flags = {
        "class_weights": str(weights),
        "label_smoothing": 0.1,
        "freeze": 1,
        "gradient_checkpointing": True,
        "gradient_accumulation_steps": 2,
        "epochs": 2,
        "lr": 1e-3,
    }
    whole = begin(folder / "toy", folder / "model", tmp_path / "whole", device="cpu", precision="fp32", **flags)
    shutil.copytree(whole, tmp_path / "resumed")
    weights.unlink()
    resume_from_first_checkpoint(tmp_path / "resumed")
    check_same_run(whole, tmp_path / "resumed")
