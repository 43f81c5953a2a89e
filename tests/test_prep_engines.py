"""The fast engines against `tokenizers`: equal on anything, and where one is wrong, found and replaced."""

import functools
import json
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cache import InputError
from cache.names import packaged_model
from cache.plans import Ints
from prep import engines
from prep.engines import (
    GigatokenEngine,
    NanotokenEngine,
    ParityCheck,
    ParityError,
    Rules,
    TokenizersEngine,
    choose_engine,
    has_young_letters,
    split_rows,
)
from prep.progress import Reporter
from prep.tokenize import Encoder, TokenizerFiles

from .corpora import build_toy, content, decoded, ids_by_transformers, toy_rows, write_rows
from .toys import write_tokenizer

CORPUS = [
    "The film was good, wasn't it?",
    "It's 2 hours of naïve, über-long fun",
    "I'd see it again  and again",
    "中文 émigré",
]
TRUNCATIONS = ((400, "right"), (9, "left"), (4, "right"))

# --- tokenizers of several kinds


def wordpiece() -> str:
    folder = packaged_model()
    assert folder is not None
    return (folder / "tokenizer.json").read_text()


def cased_wordpiece() -> str:
    """With accents kept, Chinese characters together, and added tokens of every kind."""
    tokenizer = Tokenizer.from_str(wordpiece())
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    tokenizer.add_tokens([AddedToken("new word", lstrip=True), AddedToken("<tag>", single_word=True), "Straße"])
    return str(tokenizer.to_str())


def byte_level(add_prefix_space: bool, normalizer: Any, ends: tuple[str, str]) -> str:
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = [ends[0], "<pad>", ends[1], "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.add_tokens([AddedToken("||IP||", normalized=True)])
    if ends[0] == "<s>":
        tokenizer.post_processor = processors.RobertaProcessing(
            (ends[1], 2), (ends[0], 0), trim_offsets=True, add_prefix_space=add_prefix_space
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{ends[0]} $A {ends[1]}", special_tokens=[(ends[0], 0), (ends[1], 2)]
        )
    return str(tokenizer.to_str())


def sentencepiece() -> str:
    """BPE with byte fallback, as Llama's and CamemBERT-like tokenizers have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    raw = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    steps = ({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"})
    last = ({"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    raw["decoder"] = {"type": "Sequence", "decoders": [*steps, *last]}
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


KINDS: dict[str, tuple[Callable[[Rules], engines.Engine], Callable[[], str]]] = {
    "bert": (NanotokenEngine, wordpiece),
    "bert cased": (NanotokenEngine, cased_wordpiece),
    "roberta": (GigatokenEngine, lambda: byte_level(False, None, ("<s>", "</s>"))),
    "roberta with a space before": (GigatokenEngine, lambda: byte_level(True, None, ("<s>", "</s>"))),
    "modernbert": (GigatokenEngine, lambda: byte_level(False, normalizers.NFC(), ("[CLS]", "[SEP]"))),
    "sentencepiece": (GigatokenEngine, sentencepiece),
}


@functools.cache
def pairs(kind: str) -> list[tuple[engines.Engine, engines.Engine]]:
    """For each truncation the fast engine and the reference."""
    make, tokenizer_json = KINDS[kind]
    text = tokenizer_json()
    rules = [Rules(text, max_length, side, 1) for max_length, side in TRUNCATIONS]
    return [(make(rule), TokenizersEngine(rule)) for rule in rules]


def check_equal(kind: str, texts: Sequence[str]) -> None:
    for fast, reference in pairs(kind):
        found, expected = (split_rows(*engine.encode(texts)) for engine in (fast, reference))
        assert len(found) == len(expected) == len(texts)
        for text, row, other in zip(texts, found, expected, strict=True):
            assert row.tolist() == other.tolist(), ascii(text)


ODD = [
    *("", " ", "\t", "\n", "\r\n", "\0", "\x0b", "\x1f", "\x7f", "\x85", "\xa0", "\xad", "\u200b", "\u200d", "\u2028"),
    *("\u3000", "\ufeff", "\ufffd", "\uffff", "\U000e0001", "\U0010ffff", "\u0301", "\u0307", "\ufe0f", "\u202e", "▁"),
    *(
        "İ",
        "ı",
        "ß",
        "ẞ",
        "ﬁ",
        "Σ",
        "ς",
        "ǅ",
        "Å",
        "가",
        "한",
        "中",
        "が",
        "ً",
        "ש",
        "द्",
        "🙂",
        "👩‍🚀",
        "🏳️‍🌈",
        "𝐀",
        "½",
        "①",
    ),
    *(
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[MASK]",
        "[UNK]",
        "[cls]",
        "[CLS",
        "<s>",
        "</s>",
        "<pad>",
        "<mask>",
        "<unk>",
        "<0x41>",
    ),
    *("||IP||", "|IP|", "new word", "<tag>", "Straße", "##ing", "'s", "'S", "'re", "123", "  ", "film", "a" * 101),
]
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.one_of(st.sampled_from(ODD), st.sampled_from(CORPUS), st.text(max_size=3)), max_size=12).map(
        lambda parts: "".join(parts).encode("utf-8", "replace").decode()
    ),
)


@pytest.mark.parametrize("kind", KINDS)
@given(batch=st.lists(texts, min_size=1, max_size=20))
@example(batch=ODD)
@example(batch=["".join(ODD)])
@example(batch=["\U00032ce8's", "\u2de5\u0c3c", "e\u0c3c\u0327\u0301", "\u088fs's"])
@settings(max_examples=150, deadline=None)
def test_a_fast_engine_gives_the_ids_of_tokenizers_for_any_text(kind: str, batch: list[str]) -> None:
    """Arbitrary Unicode, added and special tokens typed as text, control characters, empty texts; truncated on either
    side. The last example holds letters that the libraries' versions of Unicode do not agree on."""
    check_equal(kind, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fast_engine_gives_the_ids_of_tokenizers_for_every_tenth_character_there_is(kind: str) -> None:
    codes = [code for code in range(len(kind), sys.maxunicode + 1, 10) if not 0xD800 <= code < 0xE000]
    characters = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]
    groups = ["".join(f"{character}'s e{character}\u0327\u0301" for character in characters[i : i + 8])
              for i in range(0, len(characters), 8)]  # fmt: skip
    found, expected = (split_rows(*engine.encode(groups)) for engine in pairs(kind)[0])
    for text, row, other in zip(groups, found, expected, strict=True):
        assert row.tolist() == other.tolist(), ascii(text)


def test_letters_younger_than_unicode_3_2_are_told_from_old_ones_and_from_symbols() -> None:
    assert not any(
        map(has_young_letters, ("", "plain", "naïve “quoted” – …", "中文かな한글", "עברית", "🙂👩‍🚀🏳️‍🌈", "\u0301"))
    )
    young = ("\u0c3c", "\u2de5", "\u1c90", "\U00032ce8", "\U0001e922", "\u0378")
    assert all(map(has_young_letters, young))
    assert all(has_young_letters(f"plain {letter} text") for letter in young)


# --- proof of parity

LOUD = Reporter()


class Liar:
    """The reference, but wrong where the text has a certain word."""

    name = "nanotoken"

    def __init__(self, rules: Rules, spoil: Callable[[Ints], Ints]) -> None:
        self.honest, self.spoil = TokenizersEngine(rules), spoil
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        self.calls += 1
        rows = split_rows(*self.honest.encode(texts))
        return engines.join_rows(
            [self.spoil(row.copy()) if "word77" in text else row for text, row in zip(texts, rows, strict=True)]
        )


def other_id(row: Ints) -> Ints:
    row[1] += 1
    return row


def panic(row: Ints) -> Ints:
    class PanicException(BaseException):
        """What pyo3 raises where Rust code panics."""

    raise PanicException("index out of bounds")


SPOILS = {"another id": other_id, "a token less": lambda row: row[:-1], "a token more": lambda row: np.append(row, 7)}


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("where", ["longest", "not ascii", "any of few", "a later chunk"])
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
        monkeypatch.setattr("prep.files.WHOLE_BYTES", 0)
        monkeypatch.setattr("prep.files.BLOCK_BYTES", (6000,))
    path = write_rows(tmp_path / "a.csv", rows)
    honest = build_toy(path, tmp_path, engine="tokenizers", name="honest").cache
    made: list[Liar] = []

    def lying(rules: Rules) -> Liar:
        made.append(Liar(rules, SPOILS[spoil]))
        return made[-1]

    monkeypatch.setitem(engines.FAST, "nanotoken", ("WordPiece", lying))
    monkeypatch.setattr("tests.corpora.Reporter", lambda quiet: LOUD)
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
        def encode(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
            if fault == "panic":
                panic(np.zeros(0))
            return self.honest.encode(texts[:-1])

    monkeypatch.setitem(engines.FAST, "nanotoken", ("WordPiece", lambda rules: Broken(rules, other_id)))
    monkeypatch.setattr("tests.corpora.Reporter", lambda quiet: LOUD)
    rows = toy_rows(40)
    cache = build_toy(write_rows(tmp_path / "a.csv", rows), tmp_path).cache
    said = {"panic": "nanotoken failed: index out of bounds", "rows": "nanotoken gave 39 rows for 40 texts"}
    assert f"warning: {said[fault]}; tokenizing everything with tokenizers instead" in capsys.readouterr().err
    expected = ids_by_transformers([text for text, _ in rows], cache.tokenizer_folder)
    assert [decoded(cache)[row][0] for row in range(40)] == expected


def test_enough_rows_are_checked_the_longest_and_foreign_ones_first() -> None:
    rules = Rules(wordpiece(), 400, "right", 0)
    texts = [f"text {number}" for number in range(5000)]
    for row in range(0, 1000, 10):
        texts[row] = "é" + texts[row]
    for row in range(5, 325, 5):
        texts[row] += " long" * 50
    check = ParityCheck(rules)
    chosen = check._choose(texts)
    assert len(chosen) == len(set(chosen)) == 576
    assert set(range(5, 325, 5)) <= set(chosen)
    assert sum(not text.isascii() for text in (texts[row] for row in chosen)) >= 90
    assert check._choose(texts) == chosen, "seeded"
    check.check("itself", texts, *TokenizersEngine(rules).encode(texts))
    assert check.rows == 576
    assert len(check._choose(texts)) == 64, "fewer of each later chunk"
    assert len(ParityCheck(rules)._choose(texts[:100])) == 100


# --- who is chosen


def test_the_engine_fits_the_model() -> None:
    names = {kind: choose_engine("auto", Rules(text(), 30, "right", 1)).name for kind, (_, text) in KINDS.items()}
    assert set(names.values()) == {"nanotoken", "gigatoken"}
    assert all((names[kind] == "nanotoken") == kind.startswith("bert") for kind in names)
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)).to_str()
    assert choose_engine("auto", Rules(unigram, 30, "right", 0)).name == "tokenizers"


@pytest.mark.parametrize("engine", ["nanotoken", "gigatoken"])
def test_an_engine_that_is_not_installed_is_passed_over_or_named(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    text = wordpiece() if engine == "nanotoken" else KINDS["roberta"][1]()
    assert choose_engine("auto", Rules(text, 30, "right", 1)).name == "tokenizers"
    with pytest.raises(InputError, match=f"--engine {engine} is not installed: pip install {engine}"):
        choose_engine(engine, Rules(text, 30, "right", 1))


@pytest.mark.parametrize(("engine", "kind"), [("nanotoken", "roberta"), ("gigatoken", "bert")])
def test_an_engine_that_does_not_take_the_tokenizer_says_so(engine: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf"--engine {engine} does not take this \w+ tokenizer: .*--engine tokenizers"):
        choose_engine(engine, Rules(KINDS[kind][1](), 30, "right", 1))


@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s> </s>"])
def test_special_tokens_go_around_the_text_however_many(single: str) -> None:
    tokenizer = Tokenizer.from_str(KINDS["roberta"][1]())
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 2)])
    files = TokenizerFiles("toy", None, {"tokenizer.json": tokenizer.to_str().encode()})
    for engine in ("gigatoken", "tokenizers"):
        encoder = Encoder(files, 6, engine)
        ids, lengths = encoder.encode(CORPUS)
        expected = [row[: len(row)] for row in split_rows(*TokenizersEngine(encoder.rules).encode(CORPUS))]
        assert [row.tolist() for row in split_rows(ids, lengths)] == [row.tolist() for row in expected]
        assert encoder.engine.name == engine


def test_a_difference_names_its_place() -> None:
    error = ParityError.differing("fast", "some text", [1, 2, 3], [1, 2])
    assert str(error) == "fast and tokenizers disagree at token 2 of the text 'some text': [3] instead of []"


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
        {"padding_side": "left", "truncation_side": "left"},
    ],
    ids=str,
)
def test_the_configuration_counts_as_in_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    """Where tokenizer.json and tokenizer_config.json contradict each other, ids are those of transformers."""
    folder = write_tokenizer(tmp_path / "tokenizer")
    raw = json.loads((folder / "tokenizer.json").read_text())
    for number, word in enumerate(("Word1", "wörd", "word", "中", "文", "中文")):
        raw["model"]["vocab"][word] = 205 + number
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    settings = {**json.loads((folder / "tokenizer_config.json").read_text()), **config}
    settings = {key: value for key, value in settings.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = ["Word1 wörd WORD word2", "中文 word3 word4 word5 word6 word7 word8"]
    expected = ids_by_transformers(texts, folder, 7)
    path = write_rows(tmp_path / "a.csv", [(text, "x") for text in texts])
    cache = build_toy(path, tmp_path, max_length=7).cache
    assert [decoded(cache)[row][0] for row in range(2)] == expected
    assert ids_by_transformers(texts, cache.tokenizer_folder, 7) == expected
    assert cache.manifest.tokenizer.padding_side == config.get("padding_side", "right")
