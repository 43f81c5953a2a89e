"""Proof of parity: an engine that is wrong or fails is replaced; the configuration counts as in transformers."""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from cache.common.arrays import Array
from cache.console.progress import ConsoleProgress
from cache.errors import InputError
from prep.tokenization import engines
from prep.tokenization.encoder import Encoder
from prep.tokenization.engines import NanotokenEngine, Rules, TokenizersEngine, split_rows
from prep.tokenization.parity import ParityCheck
from prep.tokenization.tokenizer_files import find_tokenizer

from ..helpers.builds import build_toy, decoded, ids_by_transformers
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import content, edit_json
from ..helpers.models import KINDS, write_tokenizer_of
from ..helpers.tokenizers import (
    deberta_unigram,
    engine_json,
    packaged_wordpiece,
    roberta_bpe,
    tokenizer_json,
    write_tokenizer,
)
from ..helpers.tokenizers import texts as sentence_texts

# --- proof of parity

LOUD = ConsoleProgress()


class Liar:
    """The reference, but wrong where the text has a certain word."""

    name = "nanotoken"

    def __init__(self, rules: Rules, spoil: Callable[[Array], Array]) -> None:
        self.honest, self.spoil = TokenizersEngine(rules), spoil
        self.calls = 0

    def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
        self.calls += 1
        rows = split_rows(*self.honest.encode(texts, bare))
        return engines.join_rows(
            [self.spoil(row.copy()) if "word77" in text else row for text, row in zip(texts, rows, strict=True)]
        )


def other_id(row: Array) -> Array:
    row[1] += 1
    return row


def panic(row: Array) -> Array:
    class PanicException(BaseException):
        """What pyo3 raises where Rust code panics."""

    raise PanicException("index out of bounds")


SPOILS = {"another id": other_id, "a token less": lambda row: row[:-1], "a token more": lambda row: np.append(row, 7)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "spoil"),
    [
        *product(["any of few"], SPOILS),
        ("longest", "a token less"),
        ("not ascii", "another id"),
        ("a later chunk", "a token more"),
    ],
)
def test_a_wrong_row_is_found_and_the_whole_build_falls_back_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoil: str, where: str
) -> None:
    rows = [(text.replace("word77", "word7"), label) for text, label in toy_rows(300 if where == "any of few" else 900)]
    if where == "longest":
        rows[500] = ("word77 " + "word3 " * 200, "pos")
    elif where == "not ascii":
        rows[500] = ("word77 é", "pos")
    else:
        rows[-1] = ("word77", "neg")
    if where == "a later chunk":
        for size in ("prep.parsing.readers.BLOCK_BYTES", "cache.common.forked.BATCH_BYTES"):
            monkeypatch.setattr(size, 6000)
    path = write_rows(tmp_path / "a.csv", rows)
    honest = build_toy(path, tmp_path, engine="tokenizers", name="honest").cache
    made: list[Liar] = []

    def lying(rules: Rules) -> Liar:
        made.append(Liar(rules, SPOILS[spoil]))
        return made[-1]

    monkeypatch.setitem(engines.FAST, "nanotoken", ("WordPiece", lying))
    monkeypatch.setattr("tests.helpers.builds.ConsoleProgress", lambda quiet: LOUD)
    cache = build_toy(path, tmp_path, name="lied").cache
    warning = capsys.readouterr().err
    assert made[0].calls
    assert warning.startswith("warning: nanotoken and tokenizers disagree at token ")
    assert "of the text 'word77" in warning
    assert warning.endswith("tokenizing everything with tokenizers instead\n")
    assert cache.manifest.build["engine"] == "tokenizers"
    assert decoded(cache) == decoded(honest)
    assert set(content(cache.folder)) == set(content(honest.folder))


@pytest.mark.parametrize("fault", ["panic", "rows"])
def test_an_engine_that_fails_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    class Broken(Liar):
        def encode(self, texts: Sequence[str], bare: bool = False) -> tuple[Array, Array]:
            if fault == "panic":
                panic(np.zeros(0))
            return self.honest.encode(texts[:-1], bare)

    monkeypatch.setitem(engines.FAST, "nanotoken", ("WordPiece", lambda rules: Broken(rules, other_id)))
    monkeypatch.setattr("tests.helpers.builds.ConsoleProgress", lambda quiet: LOUD)
    rows = toy_rows(40)
    cache = build_toy(write_rows(tmp_path / "a.csv", rows), tmp_path).cache
    said = {"panic": "nanotoken failed: index out of bounds", "rows": "nanotoken gave 39 rows for 40 texts"}
    assert f"warning: {said[fault]}; tokenizing everything with tokenizers instead" in capsys.readouterr().err
    expected = ids_by_transformers([text for text, _ in rows], cache.tokenizer_folder)
    assert [decoded(cache)[row][0] for row in range(40)] == expected


def test_enough_rows_are_checked_the_longest_and_foreign_ones_first() -> None:
    rules = Rules(engine_json("bert"), 400, "right")
    texts = [f"text {number}" for number in range(5000)]
    for row in range(0, 1000, 10):
        texts[row] = "é" + texts[row]
    for row in range(5, 325, 5):
        texts[row] += " long" * 50
    check = ParityCheck(NanotokenEngine(rules), TokenizersEngine(rules))
    chosen = check.choose(texts)
    assert len(chosen) == len(set(chosen)) == 512
    assert len(set(range(5, 325, 5)) & set(chosen)) >= 16
    assert sum(not text.isascii() for text in (texts[row] for row in chosen)) >= 80
    assert check.choose(texts) == chosen, "seeded"
    check.check(texts, *check.encode(texts))
    assert check.rows == 512
    assert len(check.choose(texts)) == 32, "fewer of each later chunk"
    assert len(ParityCheck(NanotokenEngine(rules), TokenizersEngine(rules)).choose(texts[:100])) == 100


# --- as transformers reads the files


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"strip_accents": False},
        {"tokenize_chinese_chars": False},
        {"tokenizer_class": "DistilBertTokenizer"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": None},
        {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False},
        {"padding_side": "left", "truncation_side": "left"},
        {"additional_special_tokens": ["WORD"]},
    ],
    ids=str,
)
def test_the_configuration_counts_as_in_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    """Where tokenizer.json and tokenizer_config.json contradict each other, ids are those of transformers."""
    folder = write_tokenizer(tmp_path / "tokenizer")
    more = {word: 205 + number for number, word in enumerate(("Word1", "wörd", "word", "中", "文", "中文"))}
    edit_json(folder / "tokenizer.json", lambda raw: raw["model"]["vocab"].update(more))
    edit_json(folder / "tokenizer_config.json", **config)
    texts = ["Word1 wörd WORD word2", "中文 word3 word4 word5 word6 word7 word8"]
    expected = ids_by_transformers(texts, folder, 7)
    path = write_rows(tmp_path / "a.csv", [(text, "x") for text in texts])
    cache = build_toy(path, tmp_path, max_length=7).cache
    assert [decoded(cache)[row][0] for row in range(2)] == expected
    assert ids_by_transformers(texts, cache.tokenizer_folder, 7) == expected
    assert cache.manifest.tokenizer.padding_side == config.get("padding_side", "right")


FOREIGN = [
    "A  film\nof two\tlines ",
    " NAÏVE … ½ ＡＢＣ ﬁne e\u0301, it's\u00a0good",
    "<s> </s> [SEP] x <mask> y <pad> [PAD] z",
    "中文 émigré",
]


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"add_prefix_space": False}, {"add_prefix_space": True}, {"lower": 1}], ids=str)
@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("bert", "own"),
        *product(("roberta", "xlm-roberta", "camembert", "deberta-v3", "modernbert-cls"), ("own", "other")),
    ],
)
def test_ids_are_those_of_the_tokenizer_class(tmp_path: Path, name: str, parts: str, config: dict[str, Any]) -> None:
    """Also where tokenizer.json normalizes and splits in another way than transformers' class of that name."""
    kind = KINDS[name]
    tokenizer = Tokenizer.from_str(tokenizer_json(kind.tokenizer))
    if parts == "other":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    folder = write_tokenizer(tmp_path / "tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"do_lower_case": True, "split_by_punct": True} if "lower" in config else config
    said = {f"{role}_token": token for role, token in kind.tokens.items()}
    content = {"tokenizer_class": kind.tokenizer_class, **said, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    texts = [*FOREIGN, *sentence_texts()[:20]]
    found, lengths = Encoder(find_tokenizer(str(folder)), 64, "tokenizers").encode(texts)
    assert [row.tolist() for row in split_rows(found, lengths)] == ids_by_transformers(texts, folder, 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("AlbertTokenizer", deberta_unigram),
        ("GPT2Tokenizer", roberta_bpe),
        ("ElectraTokenizer", packaged_wordpiece),
        ("UnheardOfTokenizer", packaged_wordpiece),
    ],
)
def test_other_classes_are_left_to_transformers(tmp_path: Path, name: str, make: Callable[[], Tokenizer]) -> None:
    """Whose defaults are their own: Albert's class keeps capitals where told so. A class that nobody knows says
    nothing, and tokenizer.json counts."""
    folder, tokenizer = write_tokenizer(tmp_path / "tokenizer"), make()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": name, "do_lower_case": False, "pad_token": tokenizer.id_to_token(0)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = split_rows(*Encoder(find_tokenizer(str(folder)), 16, "tokenizers").encode(FOREIGN))
    if name == "UnheardOfTokenizer":
        (folder / "tokenizer_config.json").write_text("{}")
    assert [row.tolist() for row in found] == ids_by_transformers(FOREIGN, folder, 16)


@pytest.mark.parametrize(
    ("named", "model", "added"),
    [
        (None, {"model_type": "electra"}, {}),
        (None, {"tokenizer_class": "BertTokenizerFast"}, {}),
        ("BertTokenizer", {"model_type": "modernbert"}, {}),
        ("BertTokenizer", {}, {"word1,": 205}),
    ],
)
def test_files_beside_a_tokenizer_count_as_in_transformers(
    tmp_path: Path, named: str | None, model: dict[str, Any], added: dict[str, int]
) -> None:
    """Of a tokenizer whose tokenizer.json keeps capitals, unlike BERT's class: the model's configuration, which names
    its class or makes another's name void, and tokens that only added_tokens.json lists."""
    folder = write_tokenizer(tmp_path / "tokenizer")
    edit_json(folder / "tokenizer.json", lambda raw: raw["normalizer"].update(lowercase=False))
    files = {"tokenizer_config": {"tokenizer_class": named} if named else {}, "config": model, "added_tokens": added}
    for name, said in files.items():
        (folder / f"{name}.json").write_text(json.dumps(said))
    texts = ["Word1, word1, word2"]
    found, _ = Encoder(find_tokenizer(str(folder)), 16, "tokenizers").encode(texts)
    assert [found.tolist()] == ids_by_transformers(texts, folder, 16)


def test_a_tokenizer_that_transformers_cannot_load_is_refused(tmp_path: Path) -> None:
    """Its tokenizer.json alone does not say what its class would make of it."""
    folder = write_tokenizer(tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "AlbertTokenizer"}))
    with pytest.raises(InputError, match=r"cannot load the tokenizer .*set tokenizer_class there to"):
        find_tokenizer(str(folder))


@pytest.mark.slow
def test_a_tokenizer_that_its_class_leaves_as_it_is_keeps_its_bytes(tmp_path: Path) -> None:
    """Also where an older version wrote its settings in other words."""
    for name in KINDS:
        folder = write_tokenizer_of(tmp_path / name, KINDS[name])
        text = (folder / "tokenizer.json").read_text()
        older = text.replace('"prepend_scheme":"always","split":true', '"add_prefix_space":true')
        (folder / "tokenizer.json").write_text(older)
        assert (older != text) == ("Metaspace" in text)
        assert find_tokenizer(str(folder)).files["tokenizer.json"].decode() == older
