"""The fast engines against `tokenizers`: equal on anything; which one is chosen."""

import functools
import sys
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, processors

from cache import InputError
from prep.tokenization import engines
from prep.tokenization.encoder import Encoder
from prep.tokenization.engines import ParityError, Rules, TokenizersEngine, fast_engine, has_young_letters, split_rows
from prep.tokenization.tokenizer_files import TokenizerFiles

from ..helpers.tokenizers import CORPUS, ENGINE_KINDS, engine_json

TRUNCATIONS = ((400, "right"), (9, "left"), (4, "right"))


@functools.cache
def pairs(kind: str) -> list[tuple[engines.FastEngine, TokenizersEngine]]:
    """For each truncation the fast engine and the reference."""
    make, text = ENGINE_KINDS[kind][0], engine_json(kind)
    rules = [Rules(text, max_length, side) for max_length, side in TRUNCATIONS]
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
    *("İ", "ı", "ß", "ẞ", "ﬁ", "Σ", "ς", "ǅ", "Å", "가", "한", "中", "が", "ً", "ש", "द्", "🙂", "👩‍🚀", "🏳️‍🌈", "𝐀", "½"),
    *("[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]", "[cls]", "[CLS", "<s>", "</s>", "<pad>", "<mask>", "<unk>"),
    *("①", "<0x41>", "||IP||", "|IP|", "new word", "<tag>", "Straße", "##ing", "'s", "'S", "'re", "123", "  ", "film"),
    "a" * 101,
]  # fmt: skip
texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.one_of(st.sampled_from(ODD), st.sampled_from(CORPUS), st.text(max_size=3)), max_size=12).map(
        lambda parts: "".join(parts).encode("utf-8", "replace").decode()
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINE_KINDS)
@given(batch=st.lists(texts, min_size=1, max_size=20))
@example(batch=ODD)
@example(batch=["".join(ODD)])
@example(batch=["\U00032ce8's", "\u2de5\u0c3c", "e\u0c3c\u0327\u0301", "\u088fs's"])
@settings(max_examples=25, deadline=None)
def test_a_fast_engine_gives_the_ids_of_tokenizers_for_any_text(kind: str, batch: list[str]) -> None:
    """Arbitrary Unicode, added and special tokens typed as text, control characters, empty texts; truncated on either
    side. The last example holds letters that the libraries' versions of Unicode do not agree on."""
    check_equal(kind, batch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINE_KINDS)
@pytest.mark.parametrize("every", [50, pytest.param(5, marks=pytest.mark.faults)])
def test_a_fast_engine_gives_the_ids_of_tokenizers_for_characters_of_all_there_are(kind: str, every: int) -> None:
    codes = [code for code in range(len(kind), sys.maxunicode + 1, every) if not 0xD800 <= code < 0xE000]
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


# --- who is chosen


def test_the_engine_fits_the_model() -> None:
    for kind in ENGINE_KINDS:
        engine = fast_engine("auto", Rules(engine_json(kind), 30, "right"))
        assert engine
        assert engine.name == ("nanotoken" if kind.startswith("bert") else "gigatoken")
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)).to_str()
    assert fast_engine("auto", Rules(unigram, 30, "right")) is None


@pytest.mark.parametrize("engine", ["nanotoken", "gigatoken"])
def test_an_engine_that_is_not_installed_is_passed_over_or_named(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    text = engine_json("bert" if engine == "nanotoken" else "roberta")
    assert fast_engine("auto", Rules(text, 30, "right")) is None
    with pytest.raises(InputError, match=f"--engine {engine} is not installed: pip install {engine}"):
        fast_engine(engine, Rules(text, 30, "right"))


@pytest.mark.parametrize(("engine", "kind"), [("nanotoken", "roberta"), ("gigatoken", "bert")])
def test_an_engine_that_does_not_take_the_tokenizer_says_so(engine: str, kind: str) -> None:
    with pytest.raises(InputError, match=rf"--engine {engine} does not take this \w+ tokenizer: .*--engine tokenizers"):
        fast_engine(engine, Rules(engine_json(kind), 30, "right"))


@pytest.mark.parametrize("single", ["$A", "<s> $A", "$A </s>", "<s> $A </s> </s>"])
def test_special_tokens_go_around_the_text_however_many(single: str) -> None:
    tokenizer = Tokenizer.from_str(engine_json("roberta"))
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 2)])
    files = TokenizerFiles("toy", None, {"tokenizer.json": tokenizer.to_str().encode()})
    tokenizer.enable_truncation(6)
    expected = [row.ids for row in tokenizer.encode_batch(CORPUS)]
    for engine in ("gigatoken", "tokenizers"):
        encoder = Encoder(files, 6, engine)
        assert [row.tolist() for row in split_rows(*encoder.encode(CORPUS))] == expected
        assert encoder.engine == engine


def test_a_difference_names_its_place() -> None:
    error = ParityError.differing("fast", "some text", [1, 2, 3], [1, 2])
    assert str(error) == "fast and tokenizers disagree at token 2 of the text 'some text': [3] instead of []"
