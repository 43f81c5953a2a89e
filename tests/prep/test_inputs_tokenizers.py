"""Unusual and damaged tokenizers, through the real command."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import open_cache
from cache.reading.gather import padded_rows
from prep.columns import BadDataError
from prep.rows.encoding import check_tokens

from ..helpers.commands import GOOD, Prep, build, write
from ..helpers.files import edit_json
from ..helpers.tokenizers import SPECIALS, write_tokenizer

CONFIG = Path("tok/tokenizer_config.json")


def change_tokenizer(**changes: Any) -> None:
    """Write the toy tokenizer with keys of its tokenizer.json replaced."""
    write_tokenizer(Path("tok"))
    edit_json(Path("tok/tokenizer.json"), lambda raw: raw.update(changes))


def test_a_tokenizer_without_pad_token_is_refused(prep: Prep) -> None:
    change_tokenizer()
    path = Path("tok/tokenizer.json")
    path.write_text(path.read_text().replace("[PAD]", "[HOLE]"))
    for pad, said in (("[PAD]", "has the padding token '[PAD]', which its vocabulary lacks"), (None, "has no padding")):
        edit_json(CONFIG, pad_token=pad)
        done = build(prep, write("a.csv", GOOD))
        assert done.code == 2
        assert f"the tokenizer 'tok' {said}" in done.err
        assert '"pad_token"' in done.err
    edit_json(CONFIG, pad_token={"content": "[HOLE]", "special": True})
    assert build(prep, "a.csv").code == 0
    edit_json(CONFIG, pad_token=None)
    Path("tok/special_tokens_map.json").write_text('{"pad_token": "[HOLE]"}')
    assert build(prep, "a.csv").code == 0


def test_a_tokenizer_without_cls_works_but_not_on_rows_that_have_no_tokens(prep: Prep) -> None:
    change_tokenizer(post_processor=None)
    edit_json(CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    done = build(prep, write("a.csv", GOOD), "--max-length", "1")
    assert done.rows() == [([6], "x"), ([7], "y")]
    done = build(prep, write("b.csv", GOOD + '" ",x\n'), "--force")
    assert done.code == 2
    assert "row 2 of split 'train' (counted from 0) has no tokens" in done.err
    with pytest.raises(BadDataError, match="has no tokens"):  # nor has any other row of the batch
        check_tokens(np.zeros(0, np.uint32), np.zeros(2, np.int64), 5, np.array([3, 4]))
    assert done.rows() == [([6], "x"), ([7], "y")], "the old cache is still there"


def test_padding_and_truncation_on_the_left_are_kept(prep: Prep) -> None:
    change_tokenizer()
    edit_json(CONFIG, padding_side="left", truncation_side="left")
    done = build(prep, write("a.csv", GOOD + "word3 word4 word5 word6,x\n"), "--max-length", "4")
    assert done.rows()[2] == ([2, 10, 11, 3], "x")
    cache = open_cache("cache/a")
    assert cache.manifest.tokenizer.padding_side == "left"
    train = cache["train"]
    padded = padded_rows(train, np.arange(3), train.lengths, 4, cache.manifest.tokenizer.padding_side == "left")
    assert padded.tolist() == [[0, 2, 6, 3], [0, 2, 7, 3], [2, 10, 11, 3]]


def test_padding_and_truncation_inside_tokenizer_json_do_not_count(prep: Prep) -> None:
    pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    padding = {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, **pad}
    truncation = {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    change_tokenizer(padding=padding, truncation=truncation)
    done = build(prep, write("a.csv", "text,label\nword1 word2 word3,x\nword4,y\n"))
    assert done.rows() == [([2, 6, 7, 8, 3], "x"), ([2, 9, 3], "y")]


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("tokenizer.json", b"{", "the tokenizer.json of 'tok' does not parse as a JSON object"),
        ("tokenizer.json", b"[1]", "the tokenizer.json of 'tok' does not parse as a JSON object"),
        ("tokenizer.json", b"\xff\xfe", "the tokenizer.json of 'tok' does not parse as a JSON object"),
        ("tokenizer.json", b"{}", "transformers cannot load the tokenizer 'tok': KeyError: 'added_tokens'"),
        ("tokenizer_config.json", b"not json", "the tokenizer_config.json of 'tok' does not parse"),
        ("tokenizer_config.json", b'"text"', "the tokenizer_config.json of 'tok' does not parse"),
    ],
)
def test_a_damaged_tokenizer_is_refused(prep: Prep, file: str, data: bytes, message: str) -> None:
    change_tokenizer()
    Path("tok", file).write_bytes(data)
    done = build(prep, write("a.csv", GOOD))
    assert done.code == 2
    assert message in done.err


def test_a_folder_that_holds_no_tokenizer_is_refused(prep: Prep) -> None:
    Path("none").mkdir()
    done = build(prep, write("a.csv", GOOD), "--tokenizer", "none")
    assert done.code == 2
    assert "none holds no tokenizer.json, nor an older form" in done.err
    write("some/tokenizer.json", "{}")
    done = build(prep, "a.csv", "--tokenizer", "some/tokenizer.json")
    assert done.err == "error: --tokenizer 'some/tokenizer.json' is a file, expected its folder: --tokenizer some\n"


def test_an_old_vocab_txt_is_converted(prep: Prep) -> None:
    write("old/vocab.txt", "\n".join([*SPECIALS, "word1", "word2"]) + "\n")
    write("old/tokenizer_config.json", '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    done = build(prep, write("a.csv", GOOD), "--tokenizer", "old")
    assert done.rows() == [([2, 5, 3], "x"), ([2, 6, 3], "y")]


def test_a_model_s_folder_without_vocabulary_is_no_tokenizer(prep: Prep) -> None:
    """Of its configuration alone transformers would make a tokenizer that knows nothing but special tokens."""
    write("model/config.json", '{"model_type": "deberta-v2"}')
    write("model/tokenizer_config.json", '{"do_lower_case": false}')
    done = build(prep, write("a.csv", GOOD), "--tokenizer", "model")
    assert done.code == 2
    assert (
        "model holds no tokenizer.json, nor an older form of a tokenizer (vocab.txt, vocab.json, spm.model" in done.err
    )


def test_a_sentencepiece_model_says_what_to_install(prep: Prep, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DeBERTa-v3's on the Hub, which has no other form."""
    write("model/spm.model", b"")
    monkeypatch.setattr("prep.tokenization.tokenizer_files.find_spec", lambda name: None)
    done = build(prep, write("a.csv", GOOD), "--tokenizer", "model")
    assert done.code == 2
    assert "holds its tokenizer as spm.model, which needs sentencepiece: pip install sentencepiece" in done.err


def test_a_tokenizer_of_an_older_form_in_the_hubs_cache_is_converted(
    prep: Prep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models older than tokenizer.json have a vocab.txt only."""
    monkeypatch.setenv("HF_HUB_CACHE", "hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = "hub/models--somebody--old"
    write(f"{stored}/refs/main", commit)
    write(f"{stored}/snapshots/{commit}/vocab.txt", "\n".join([*SPECIALS, "word1", "word2"]) + "\n")
    write(f"{stored}/snapshots/{commit}/config.json", '{"model_type": "bert"}')
    done = build(prep, write("a.csv", GOOD), "--tokenizer", "somebody/old")
    assert done.rows() == [([2, 5, 3], "x"), ([2, 6, 3], "y")]
    manifest = open_cache("cache/a").manifest
    assert (manifest.tokenizer.name, manifest.tokenizer.revision) == ("somebody/old", commit)


def test_the_default_max_length_is_the_tokenizers_own_up_to_512(prep: Prep) -> None:
    for limit, expected in ((128, 128), (100_000, 512), (1e30, 512), (None, 512), (0, 512)):
        shutil.rmtree("tok", ignore_errors=True)
        change_tokenizer()
        edit_json(CONFIG, model_max_length=limit)
        assert build(prep, write("a.csv", GOOD), "--force").code == 0
        assert open_cache("cache/a").manifest.max_length == expected
