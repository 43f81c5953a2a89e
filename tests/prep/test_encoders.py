"""Rows put together from a fast engine's tokens: equal to the library tokenizers' own, and a wrong engine is found."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, processors

from cache import InputError
from cache.common.pairs import longest_first
from prep.tokenization.engines import NanotokenEngine, ParityError, Rules, TokenizersEngine, fast_engine, split_rows
from prep.tokenization.pairs import PairEncoder, pair_template
from prep.tokenization.parity import ParityCheck
from prep.tokenization.tokenizer_files import TokenizerFiles, with_space_before
from prep.tokenization.words import WordEncoder, Words, pack, unpack
from tests.helpers.tokenizers import ENGINE_KINDS, engine_json, write_tokenizer

ODD = ["the", "film", "was", "Größe", "naïve", "1999", "<unk>", "ok.", "🙂"]
ODDER = [*ODD, "", "\u200b", "two words", " led", "film  "]
"""With words without a token, of many tokens, with spaces in them."""


def words_of(rows: Sequence[Sequence[str]], marks: np.ndarray) -> Words:
    """Rows of words, and the mark of each word."""
    flat = [word for row in rows for word in row]
    distinct = list(dict.fromkeys(flat))
    numbers = np.array([distinct.index(word) for word in flat], np.int64)
    return Words(distinct, numbers, np.array([len(row) for row in rows], np.int64), marks)


MAX_LENGTHS = {"pairs": (9, 16, 200), "words": (5, 16, 200)}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
@pytest.mark.parametrize("name", MAX_LENGTHS)
@pytest.mark.parametrize("rows", [20, pytest.param(200, marks=pytest.mark.faults)])
def test_a_fast_engine_puts_rows_together_as_tokenizers_does(rows: int, name: str, kind: str, side: str) -> None:
    """Any vocabulary kind, either truncation side, odd and even room; templates of one and of two token types."""
    random = np.random.default_rng(1)
    texts = [[" ".join(random.choice(ODD, random.integers(0, 25))) for _ in range(rows)] for _ in range(2)]
    words = [random.choice(ODDER, random.integers(0, 25)).tolist() for _ in range(rows)]
    marks = random.integers(1, 9, sum(map(len, words)))
    content = engine_json(kind, small=True)
    files = TokenizerFiles("toy", None, {"tokenizer.json": content.encode()})
    spaced = with_space_before(files).files["tokenizer.json"].decode()
    for max_length in MAX_LENGTHS[name][: 3 if side == "right" else 2]:  # nothing is cut at 200
        rules = Rules(content if name == "pairs" else spaced, max_length, side)
        engine = fast_engine("auto", rules)
        assert engine
        check = ParityCheck(engine, TokenizersEngine(rules))
        if name == "pairs":
            pairs = PairEncoder(check.reference, check)
            found, expected = pairs.encode(*texts), pairs.by_tokenizers(*texts)
        else:
            encoder = WordEncoder(check.reference, check)
            found, expected = encoder.encode(words_of(words, marks)), encoder.by_tokenizers(words, marks)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


FAULTS = [("pairs", "an id"), ("words", "an id"), ("words", "a token more")]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_wrong_engine_is_found(tmp_path: Path, name: str, fault: str) -> None:
    """One id off in one text; or a word of one token too many, which also moves a mark."""
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 32, "right")

    class Wrong(TokenizersEngine):
        name = "wrong"

        def encode(self, texts: Any, bare: bool = False) -> Any:
            ids, lengths = super().encode(texts, bare)
            if fault == "an id":
                ids[-1] += 1
                return ids, lengths
            lengths[0] += 1
            return np.insert(ids, 0, 7), lengths

    engine: Any = Wrong(rules)
    check = ParityCheck(engine, TokenizersEngine(rules))
    with pytest.raises(ParityError, match="wrong and tokenizers disagree"):
        if name == "pairs":
            PairEncoder(check.reference, check).encode(["word1 word2"], ["word3"])
        else:
            words = words_of([["word1", "word2"], ["word3"]], np.array([1, 2, 3]))
            WordEncoder(check.reference, check).encode(words)


def test_truncation_takes_from_the_longer_text_as_tokenizers_does(tmp_path: Path) -> None:
    """Every pair of lengths up to 14 tokens, for every room from 2 to 11."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(write_tokenizer(tmp_path / "t") / "tokenizer.json"))
    firsts, seconds = (column.ravel() for column in np.meshgrid(np.arange(15), np.arange(15)))
    pairs = [("word1 " * first, "word2 " * second) for first, second in zip(firsts, seconds, strict=True)]
    for most in range(2, 12):
        backend.enable_truncation(most + 3)
        expected = [(e.ids.count(6), e.ids.count(7)) for e in backend.encode_batch_fast(pairs)]
        kept = longest_first(firsts, seconds, most)
        assert list(zip(kept[0].tolist(), kept[1].tolist(), strict=True)) == expected


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_reference_for_pairs_truncates_as_tokenizers_does_and_keeps_nothing_that_is_cut_off(
    tmp_path: Path, side: str
) -> None:
    """`tokenizers` itself would keep every combination of the pieces, gigabytes of two long texts."""
    from tokenizers import Tokenizer

    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 9, side)
    counts = list(product(range(9), range(9)))
    firsts, seconds = ([" ".join(f"word{n}" for n in range(pair[text])) for pair in counts] for text in (0, 1))
    encoder = PairEncoder(TokenizersEngine(rules), None)
    assert encoder.reference.backend.truncation is None
    ids, lengths, zeros = encoder.encode(firsts, seconds)
    backend = Tokenizer.from_str(rules.tokenizer_json)
    backend.enable_truncation(9, direction=side)
    expected = backend.encode_batch_fast(list(zip(firsts, seconds, strict=True)))
    assert [row.tolist() for row in split_rows(ids, lengths)] == [row.ids for row in expected]
    assert zeros.tolist() == [row.type_ids.count(0) for row in expected]


def test_marks_that_are_off_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every id be right."""
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 32, "right")
    reference = TokenizersEngine(rules)
    encoder = WordEncoder(reference, ParityCheck(NanotokenEngine(rules), reference))
    honest = encoder.assemble
    monkeypatch.setattr(encoder, "assemble", lambda *given: (*honest(*given)[:2], np.roll(honest(*given)[2], 1)))
    with pytest.raises(ParityError, match="disagree where the words of 'word1 word2' begin"):
        encoder.encode(words_of([["word1", "word2"]], np.array([1, 2])))


@pytest.mark.parametrize(
    ("letters", "template"), [("ab", "[CLS] $B $A"), ("ab", "$A:1 $B:0"), ("ab", "$A:0 $B:2"), ("a", "$A $B")]
)
def test_a_template_for_pairs_that_a_cache_cannot_hold_is_refused(letters: str, template: str) -> None:
    """The second text first, token types other than 0 before 1, and a tokenizer that drops letters."""
    backend = Tokenizer(models.BPE({"[CLS]": 0, **{letter: number for number, letter in enumerate(letters, 1)}}, []))
    backend.post_processor = processors.TemplateProcessing("$A", template, [("[CLS]", 0)])
    with pytest.raises(InputError, match="template for pairs is not one that a cache can hold"):
        pair_template(backend)


@pytest.mark.parametrize(("largest", "wide"), [(1 << 16, np.uint32), (1 << 31, np.uint64)])
def test_ids_and_marks_come_out_of_one_integer_as_they_went_in(largest: int, wide: type) -> None:
    """Up to the largest of both."""
    ids = np.array([0, 7, largest - 1, largest - 1], np.uint32)
    marks = np.array([0, 1 << 15, 0, 1 << 15])
    found = unpack(pack(ids, marks, wide))
    assert found[0].itemsize == np.dtype(wide).itemsize // 2
    assert (found[0].tolist(), found[1].tolist()) == (ids.tolist(), marks.tolist())
