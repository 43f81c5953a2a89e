"""Model folders changed at random and then used, in a process that watches what is opened: `main` is for a child."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch

import train
from cache import Cache, LengthwiseError
from train.metrics.evaluation import evaluate
from train.models.fit import CacheRequirements
from train.models.loading import load_model, model_digest
from train.models.trained import load_for_evaluation
from train.predict import Predictor

from .caches import file_info, write_cache
from .files import edit_json
from .fuzzing import mutated_bytes, mutated_json
from .models import DEBERTA_V3, MODERN, write_model
from .tokenizers import write_tokenizer

Files = dict[str, bytes]
ROOT = str(Path(train.__file__).parents[1])

HOSTILE: dict[str, tuple[Any, ...]] = {
    "auto_map": ({"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"},),
    "model_type": ("mine", "vit", "gpt2", "xlnet", "t5", "clip", "albert", "roberta", None, 7, []),
    "attn_implementation": ("flash_attention_2", "kernels-community/flash-attn", "eager", 5),
    "_attn_implementation": ("kernels-community/flash-attn", {"": "paged"}),
    "_attn_implementation_internal": ("../x",),
    "quantization_config": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "gptq"}, 3),
    "dtype": ("float64", "int8", "load", "os", 3),
    "torch_dtype": ("float16", "nn", None),
    "transformers_weights": ("../outside/weights.bin", "adapter.bin"),
    "base_model_tp_plan": ({"*": "colwise"},),
    "per_layer_config": ({"0": {"hidden_size": 64}},),
    "fusion_config": ({"patch_embeddings": True},),
    "attribute_map": ({"hidden_size": "vocab_size"}, 3),
    "to_dict": (5,),
    "use_kernels": (True,),
    "return_dict": (False,),
    "use_return_dict": (False,),
    "output_attentions": (True,),
    "output_hidden_states": (True,),
    "torchscript": (True,),
    "pruned_heads": ({"0": [0]}, {"x": 1}),
    "chunk_size_feed_forward": (7, -1),
    "is_decoder": (True, "yes"),
    "add_cross_attention": (True,),
    "is_encoder_decoder": (True,),
    "hidden_size": (0, 1, 33, 64, -32, 1 << 40, 1 << 20, "32", 32.5, [32]),
    "vocab_size": (0, 1, 204, 206, 1 << 19, 1 << 62, -1, None),
    "num_hidden_layers": (0, 1, 3, 1000, 1 << 19, 1 << 40, -1, True),
    "num_attention_heads": (0, 1, 3, 32, 1 << 18),
    "intermediate_size": (0, 1, 1 << 20, 1 << 50),
    "max_position_embeddings": (0, 1, 8, 129, 1 << 20, 1 << 45),
    "type_vocab_size": (0, 1, 3, 1 << 20),
    "pad_token_id": (-1, 1, 204, 205, 1 << 40, None, "0"),
    "hidden_act": ("", "os.system", "quick_gelu", None, 1),
    "hidden_dropout_prob": (2, -1, 1e300, "x"),
    "layer_norm_eps": (0, -1, 1e300),
    "num_labels": (0, 1, 3, -5, 1 << 20, 1 << 45, "2"),
    "id2label": ({}, {"0": "neg"}, {"0": 5, "1": None}, {"x": "neg"}, {"-1": "a", "7": "b"}, ["neg", "pos"], "neg"),
    "label2id": ({"a": "b"}, 3),
    "problem_type": ("regression", "multi_label_classification", "mine", 3),
    "architectures": ([], None, ["BertForMaskedLM"], ["BertForTokenClassification"], "BertModel", [3], {"a": 1}),
    "summary_type": ("last", 3),
    "classifier_pooling": ("mean", "max", 0),
    "local_attention": (0, -3, 1 << 20),
    "rope_parameters": ({"full_attention": {"rope_type": "yarn"}}, {"rope_theta": "x"}, 3, {"full_attention": []}),
    "layer_types": (["conv"], ["full_attention"] * 500, 4),
    "position_buckets": (0, -1, 1 << 20),
    "pos_att_type": ("c2p|p2p", ["x"], 3),
    "text_config": ({"auto_map": {"AutoConfig": "evil.Config"}}, 3),
    "sinusoidal_pos_embds": (True,),
    "tie_word_embeddings": (False, 3),
}
"""Keys of config.json and values that a stranger might give them."""


def sound_models(folder: Path) -> list[Files]:
    """Models that work, as files: classifiers of three kinds, in one file and in several, finished and foreign ones."""
    made = []
    kinds: dict[str, dict[str, Any]] = {
        "bert": {},
        "roberta": {},
        "deberta-v2": {**DEBERTA_V3, "max_position_embeddings": 128},
        "modernbert": {**MODERN, "intermediate_size": 64},
    }
    for kind, config in kinds.items():
        classes = ("neg", "pos")
        path = write_tokenizer(write_model(folder / kind, kind=kind, classes=classes, num_hidden_layers=2, **config))
        made.append(_read(path))
        listed = [vars(file_info(file)) for file in sorted(path.iterdir())]
        details = {"max_length": 48, "pair": False, "task": "classification", "files": listed}
        made.append({**made[-1], "lengthwise.json": json.dumps(details).encode()})
        _split_weights(path)
        made.append(_read(path))
    return made


def _read(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _split_weights(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    mapping = {}
    for number in range(2):
        part = names[number::2]
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        mapping |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": mapping}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# --- changing them


def change(rest: random.Random, files: Files, folder: Path) -> str:
    """Change the model in `folder`, which holds `files`, in one way; returns what was done."""
    name = rest.choice(sorted(files))
    path = folder / name
    kind = rest.choice(["key", "key", "key", "json", "json", "bytes", "bytes", "header", "index", "replaced"])
    if kind == "key":
        edit_json(folder / "config.json", lambda raw: raw.__setitem__(*_hostile(rest)))
    elif kind == "json" and name.endswith(".json"):
        path.write_text(json.dumps(mutated_json(rest, json.loads(path.read_bytes()))))
    elif kind == "header" and name.endswith(".safetensors"):
        _change_header(rest, path)
    elif kind == "index":
        _redirect(rest, folder)
    elif kind == "replaced":
        _replace(rest, path)
    else:
        path.write_bytes(mutated_bytes(rest, files[name]))
    return f"{kind} of {name}"


def _hostile(rest: random.Random) -> tuple[str, Any]:
    key = rest.choice(sorted(HOSTILE))
    return key, rest.choice(HOSTILE[key])


def _change_header(rest: random.Random, path: Path) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(mutated_json(rest, json.loads(data[8 : 8 + size]))).encode()
    length = len(header) if rest.random() < 0.8 else rest.choice((0, 1, size, 1 << 20, 1 << 40, (1 << 64) - 1))
    path.write_bytes(length.to_bytes(8, "little") + header + data[8 + size :])


def _redirect(rest: random.Random, folder: Path) -> None:
    """Name other files as weights in an index: pickles, files outside, none at all."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    names = ("weights.bin", "../outside/weights.bin", "../outside/model.safetensors", "/etc/passwd", "", "..", "a/b", 5)
    names = (*names, "outside.safetensors", "missing.safetensors", "x\0.safetensors", None, ["model.safetensors"])
    mapping: Any = dict.fromkeys(("a", "b"), rest.choice(names))
    index = {"weight_map": rest.choice([mapping, mapping, mapping, [], None, {}, "weights.bin"])}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(folder.parent / "outside" / "weights.bin", folder / "weights.bin")
    (folder / "outside.safetensors").symlink_to("../outside/model.safetensors")


def _replace(rest: random.Random, path: Path) -> None:
    path.unlink()
    outside = path.parent.parent / "outside"
    choice = rest.randrange(7)
    if choice == 0:
        path.symlink_to(outside / path.name)
    elif choice == 1:
        path.symlink_to(rest.choice(["../../blobs/" + "0" * 40, "../outside", "/dev/zero", path.name]))
    elif choice == 2:
        os.mkfifo(path)
    elif choice == 3:
        path.mkdir()
    elif choice == 4:
        (path.parent / "adapter_config.json").write_text(
            '{"base_model_name_or_path": "../outside", "peft_type": "LORA"}'
        )
    elif choice == 5:
        path.write_bytes(rest.choice([b"", b"null", b"[]", b"[" * 100_000, b'{"a":' * 5000, b"\xff" * 64]))


# --- using them


def use(rest: random.Random, folder: Path, cache: Cache) -> None:
    """What `train predict`, `train eval` and `train run --model` do with a model."""
    device, required = torch.device("cpu"), CacheRequirements(cache, 48)
    action = rest.randrange(3)
    if action == 0:
        predictor = Predictor(str(folder), device, "fp32", 4)
        assert len(list(predictor(["word1 word2", "", "word3 " * 200]))) == 3
    elif action == 1:
        model = load_for_evaluation(folder, device, required)
        evaluate(model, cache["test"], device, "fp32", 8)
    else:
        required = replace(required, task=rest.choice([None, "mlm"]))
        load_model(folder, required, 0)
        model_digest(folder)


class Watch:
    """An audit hook: raises for what using a model must not do."""

    FORBIDDEN = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "pickle.find_class", "os.remove")
    CODE = (
        sys.prefix,
        sys.base_prefix,
        *(str(Path(file).parents[1]) for file in (torch.__file__, train.__file__)),
        "/proc",
    )
    WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def __init__(self, folder: Path) -> None:
        self.parent, self.active, self.found = str(folder), False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in self.FORBIDDEN:
            self.found.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and not self._allowed(os.fsdecode(path), flags):
                self.found.append(f"open {path!r} {flags}")

    def _allowed(self, path: str, flags: int) -> bool:
        if flags & self.WRITING:
            return False
        if "/" not in path or path == "../../blobs":  # relative to a handle
            return path != ".."
        inside = os.path.normpath(path)
        if inside.startswith(self.parent):
            return inside.startswith((f"{self.parent}/case/model", f"{self.parent}/toy"))
        return inside.startswith(self.CODE)


def refuse_pickles() -> None:
    """Make `torch.load` and unpickling fail the test."""

    def refused(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a pickle was read")

    torch.load = refused
    pickle.load = pickle.loads = refused


def listing(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        yield str(path), stat.st_size, stat.st_mtime_ns


def main(folder: Path, first: int, count: int) -> None:
    """Change and use so many models in `folder`; prints how many were refused and how many worked.

    Raises:
        Exception: what the first raises that is neither refused nor works.
    """
    warnings.simplefilter("ignore")
    cache = write_cache(folder / "toy", {"train": 12, "test": 12})
    models = sound_models(folder / "sound")
    outside = folder / "case" / "outside"
    outside.mkdir(parents=True)
    for name, data in models[0].items():
        (outside / name).write_bytes(data)
    torch.save({"a": torch.zeros(1)}, outside / "weights.bin")
    model = folder / "case" / "model"
    watch, counts = Watch(folder), {"refused": 0, "worked": 0}
    refuse_pickles()
    soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (4 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in range(first, first + count):
        rest = random.Random(number)
        model.mkdir()
        files = models[number % len(models)]
        for name, data in files.items():
            (model / name).write_bytes(data)
        what = change(rest, files, model) if number >= len(models) else "nothing"
        before, watch.active = list(listing(folder)), True
        print(f"{number}: {what}", file=sys.stderr, flush=True)
        signal.alarm(60)
        try:
            use(rest, model, cache)
            counts["worked"] += 1
        except LengthwiseError as error:
            assert what != "nothing", f"{files.keys()}: {error}"
            assert 20 < len(str(error)) < 2000, str(error)
            print(f"  {error}", file=sys.stderr)
            counts["refused"] += 1
        except MemoryError as error:
            raise AssertionError("it took more than 4 GiB") from error
        finally:
            signal.alarm(0)
            watch.active = False
        assert not watch.found, watch.found
        assert list(listing(folder)) == before
        shutil.rmtree(model)
    print(json.dumps(counts))
