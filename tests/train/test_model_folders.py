"""What is taken of a model's folder, and what is refused: a stranger may have made it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from cache import Cache
from cache.errors import CorruptCacheError, InputError, LengthwiseError, MismatchError
from tests.helpers.caches import file_info, write_cache
from tests.helpers.files import edit_json, flip
from tests.helpers.models import without_tensors, write_model
from tests.helpers.tokenizers import write_tokenizer
from train.models.configuration import COMMON, UNDECLARED, read_config
from train.models.fit import CacheRequirements
from train.models.folder import ModelFolder
from train.models.loading import load_model, model_digest
from train.models.trained import load_for_evaluation, load_text_classifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("cache") / "toy", {"train": 40})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A classifier with its tokenizer, listed with their checksums as in a finished run."""
    folder = write_tokenizer(write_model(tmp_path / "model", classes=2))
    listed = [vars(file_info(path)) for path in sorted(folder.iterdir())]
    (folder / "lengthwise.json").write_text(json.dumps({"max_length": 48, "pair": False, "files": listed}))
    return folder


def uses(folder: Path, toy: Cache) -> list[Any]:
    """The ways to use a model: `train run --model`, `train eval`, `train predict`."""
    needs = CacheRequirements(toy, 48)
    return [
        lambda: load_model(folder, needs, 0),
        lambda: load_for_evaluation(folder, CPU, needs),
        lambda: load_text_classifier(folder, CPU),
    ]


# --- checksums


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_changed_file_of_a_finished_model_is_refused_by_every_command(model: Path, toy: Cache, name: str) -> None:
    flip(model / name, -3)
    for use in uses(model, toy):
        with pytest.raises(CorruptCacheError, match=rf"{name}: differs from its checksum in lengthwise\.json; restore"):
            use()


def test_a_missing_file_of_a_finished_model_is_refused(model: Path, toy: Cache) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for use in uses(model, toy):
        with pytest.raises(LengthwiseError, match=r"is missing, though lengthwise\.json lists it"):
            use()


def test_an_edited_model_is_taken_once_its_checksums_are_removed(model: Path, toy: Cache) -> None:
    edit_json(model / "config.json", hidden_dropout_prob=0.3)
    edit_json(model / "lengthwise.json", files=None)
    for use in uses(model, toy):
        use()


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', '{"files": [{"file": "x"}]}', '{"max_length": -1}'])
def test_details_that_cannot_be_read_are_refused(model: Path, toy: Cache, content: str) -> None:
    (model / "lengthwise.json").write_text(content)
    with pytest.raises(CorruptCacheError, match=r"lengthwise\.json"):
        load_text_classifier(model, CPU)


# --- weights


@pytest.mark.parametrize("name", ["weights.bin", "../outside.safetensors", "/etc/passwd", "", "a/b.safetensors", 3])
def test_an_index_names_safetensors_files_of_its_own_folder_only(tmp_path: Path, toy: Cache, name: Any) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    torch.save({"a": torch.zeros(1)}, folder / "weights.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(MismatchError, match=r"as a file of weights, expected a name in the same folder"):
        uses(folder, toy)[0]()


def test_weights_in_several_files_are_loaded(tmp_path: Path, toy: Cache) -> None:
    folder = write_model(tmp_path / "model")
    whole = uses(folder, toy)[0]().state_dict()
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(2):
        part = dict(list(weights.items())[number::2])
        safetensors.torch.save_file(part, folder / f"part-{number}.safetensors", {"format": "pt"})
    mapping = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": mapping}))
    parts = uses(folder, toy)[0]().state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_adapters_are_refused(model: Path, toy: Cache) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    for use in uses(model, toy):
        with pytest.raises(InputError, match="adapters are not loaded; merge it"):
            use()


def test_a_classifier_without_a_head_is_refused(model: Path, toy: Cache) -> None:
    """Its configuration alone says that it is one; its labels would be random."""
    (model / "lengthwise.json").unlink()
    without_tensors(model, "classifier")
    with pytest.raises(InputError, match="have no head for classification, though its configuration says so"):
        load_text_classifier(model, CPU)


def test_tensors_of_another_shape_are_named(model: Path) -> None:
    (model / "lengthwise.json").unlink()
    edit_json(model / "config.json", intermediate_size=96)
    with pytest.raises(MismatchError, match=r"is \[32, 64\] in the files, \[32, 96\] by config.json|\[64\].*\[96\]"):
        load_text_classifier(model, CPU)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 1 << 20, "hidden_size": 1 << 16, "num_attention_heads": 64},
        {"num_hidden_layers": 100, "hidden_size": 1 << 14, "intermediate_size": 1 << 20},
        {"max_position_embeddings": 1 << 20, "hidden_size": 1 << 20},
        {"vocab_size": 1 << 40},
        {"num_hidden_layers": 1 << 20},
        {"num_labels": 1 << 40},
    ],
)
def test_a_configuration_cannot_ask_for_more_than_the_files_hold(model: Path, sizes: dict[str, int]) -> None:
    """Terabytes, by these numbers; nothing of the kind is allocated."""
    (model / "lengthwise.json").unlink()
    edit_json(model / "config.json", **sizes)
    with pytest.raises(LengthwiseError, match=r"describes [\d,]+ weights, the files hold|expected at most|none above"):
        load_text_classifier(model, CPU)


# --- links


def test_the_links_of_the_hub_s_cache_are_followed_and_no_others(tmp_path: Path, toy: Cache) -> None:
    stored = tmp_path / "models--somebody--model"
    folder, blobs = stored / "snapshots" / "0123", stored / "blobs"
    write_model(folder)
    blobs.mkdir()
    digest = model_digest(folder)
    for number, name in enumerate(("config.json", "model.safetensors")):
        (folder / name).rename(blobs / f"{number:040x}")
        (folder / name).symlink_to(f"../../blobs/{number:040x}")
    uses(folder, toy)[0]()
    assert model_digest(folder) == digest
    (blobs / f"{0:040x}").rename(tmp_path / "outside.json")
    (blobs / f"{0:040x}").symlink_to("../../outside.json")
    with pytest.raises(CorruptCacheError, match="is a link, which is not followed here"):
        uses(folder, toy)[0]()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "lengthwise.json"])
def test_links_and_pipes_in_a_model_are_refused(model: Path, tmp_path: Path, toy: Cache, name: str) -> None:
    (model / name).rename(tmp_path / name)
    (model / name).symlink_to(tmp_path / name)
    with pytest.raises(CorruptCacheError, match=f"{name}: is a link, which is not followed here"):
        load_text_classifier(model, CPU)
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(CorruptCacheError, match=f"{name}: is no"):
        load_text_classifier(model, CPU)


# --- configurations


def test_only_keys_of_the_architecture_are_taken(model: Path) -> None:
    with ModelFolder(model) as folder:
        before = read_config(folder).to_dict()
    (model / "lengthwise.json").unlink()
    edit_json(
        model / "config.json",
        attn_implementation="kernels-community/flash-attn",
        _attn_implementation="eager",
        auto_map={"AutoConfig": "evil.Config"},
        quantization_config={"quant_method": "gptq"},
        torch_dtype="float16",
        return_dict=False,
        transformers_weights="weights.bin",
        to_dict=5,
    )
    with ModelFolder(model) as folder:
        assert read_config(folder).to_dict() == before
    assert load_text_classifier(model, CPU)[0].dtype == torch.float32


UNUSED = frozenset({"gradient_checkpointing", "initializer_range", "n_embed", "rope_local_base_freq"}) | {
    "first_k_dense_replace", "full_attention_interval", "moe_layer_freq", "sliding_window_pattern"
}  # fmt: skip
"""Keys of decoders, and of training."""


def test_every_key_that_transformers_reads_of_a_configuration_is_taken() -> None:
    """Also those that a configuration does not declare, which the source of its model alone shows."""
    from transformers.models.auto import modeling_auto as auto

    types = {
        name
        for task in ("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "MASKED_LM")
        for name in getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
    }
    models = Path(transformers.__file__).parent / "models"
    missing = set()
    for name in (kind.replace("-", "_") for kind in types):
        model, config = (
            "".join(path.read_text("utf-8") for path in models.glob(f"{name}/{part}_{name}.py"))
            for part in ("modeling", "configuration")
        )
        read = set(re.findall(r'getattr\((?:self\.)?config, "(\w+)"', model))
        read |= set(re.findall(r'kwargs\.(?:get|pop)\(\s*"(\w+)"', config))
        declared = set(re.findall(r"^    (\w+):", config, re.MULTILINE))
        missing |= {key for key in read - declared - COMMON - UNDECLARED - UNUSED if not key.startswith("_")}
    assert not missing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": ["bert"]}, "model_type is"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 33}, "cannot be"),
        ({"hidden_act": "os.system"}, "os.system"),
        ({"id2label": {"x": "neg"}}, "cannot be used"),
        ({"architectures": "BertModel"}, "architectures"),
        ({"architectures": [3]}, "architectures"),
        ({"id2label": 3}, "cannot be used"),
        ({"id2label": {"0": "pos", "1": "pos"}}, "calls two classes 'pos'"),
        ({"problem_type": "regression"}, "gives 2 numbers for each text, expected one"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_an_error_of_ours(model: Path, changes: Any, said: str) -> None:
    (model / "lengthwise.json").unlink()
    edit_json(model / "config.json", **changes)
    with pytest.raises(InputError, match=said):
        load_text_classifier(model, CPU)


def test_a_folder_that_is_no_model_is_told_so_before_its_tokenizer_is_missed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json, so it is not a model"):
        load_text_classifier(tmp_path, CPU)


# --- tokenizers


@pytest.mark.parametrize(
    "content", [b"", b"null", b"{}", b"[" * 100_000, b'{"model": {"type": "WordPiece"}}', b"\xff" * 9]
)
def test_a_broken_tokenizer_is_an_error_of_ours(model: Path, content: bytes) -> None:
    (model / "lengthwise.json").unlink()
    (model / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer"):
        load_text_classifier(model, CPU)


def test_the_folder_stays_the_one_that_was_opened(model: Path, tmp_path: Path) -> None:
    with ModelFolder(model) as folder:
        model.rename(tmp_path / "moved")
        model.mkdir()
        assert folder.read("config.json", 1 << 20) == (tmp_path / "moved" / "config.json").read_bytes()
