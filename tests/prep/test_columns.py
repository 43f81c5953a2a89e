"""Which columns are taken for text and label where the user names none, and what is said of them."""

from pathlib import Path

import pyarrow as pa
import pytest

from cache import InputError, open_cache
from prep.columns import Columns, plain
from prep.corpus.usual_columns import choose_columns

from ..helpers.commands import GOOD, Prep, build, write


def chosen(header: str, **asked: object) -> tuple[str | None, str | None, str]:
    found = choose_columns(header.split(","), Columns(**asked), "a.csv")  # type: ignore[arg-type]
    return found.text, found.pair, ",".join(found.labels)


@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        ("id,Text,Category", "Text", "Category"),
        ("TEXT,LABEL", "TEXT", "LABEL"),
        ("Review Text,Sentiment", "Review Text", "Sentiment"),
        ("review_text,stars", "review_text", "stars"),
        ("tweet,Emotion", "tweet", "Emotion"),
        ("Class Index,body", "body", "Class Index"),
        ("message,rating,stars", "message", "rating"),
        ("Text,review,label", "review", "label"),
        ("Tokens,NER_Tags", "Tokens", "NER_Tags"),
    ],
)
def test_columns_are_found_by_case_and_by_common_names(header: str, text: str, label: str) -> None:
    assert chosen(header) == (text, None, label)


def test_views_of_text_in_lists_become_text() -> None:
    batch = plain(pa.record_batch({"words": pa.array([["a", "b"], []], pa.list_(pa.string_view()))}))
    assert batch.column(0).equals(pa.array([["a", "b"], []], pa.large_list(pa.large_string())))


@pytest.mark.parametrize(
    ("header", "pair"),
    [
        ("sentence1,sentence2,label", ("sentence1", "sentence2")),
        ("Premise,Hypothesis,label", ("Premise", "Hypothesis")),
        ("label,question2,question1", ("question1", "question2")),
        ("text1,text2,label", ("text1", "text2")),
        ("Sentence 1,Sentence 2,label", ("Sentence 1", "Sentence 2")),
        ("text,sentence1,sentence2,label", ("text", None)),
        ("sentence,question,label", ("sentence", None)),
        ("sentence1,label,text_b,Body", ("Body", None)),
    ],
)
def test_pairs_are_found_by_their_usual_names(header: str, pair: tuple[str, str | None]) -> None:
    assert chosen(header)[:2] == pair


def test_a_column_that_is_named_settles_the_other_of_its_pair() -> None:
    header = "premise,hypothesis,other,label"
    assert chosen(header, pair="hypothesis")[:2] == ("premise", "hypothesis")
    assert chosen(header, text="hypothesis")[:2] == ("hypothesis", None)
    with pytest.raises(InputError, match="which column is the text"):
        chosen(header, pair="other")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("Text,TEXT,label", "a.csv: which column is the text, 'Text' or 'TEXT'? Name one with --text COLUMN"),
        ("product_review,label", "It has 'product_review', 'label'; name one with --text product_review"),
        ("text,Airline Sentiment", "name one with --label 'Airline Sentiment'; without labels pass --task mlm"),
        ("text", "It has 'text'; name one with --label COLUMN; without labels pass --task mlm, to adapt a model"),
        ("text,id", "or keep the file for train predict"),
    ],
)
def test_what_is_not_taken_is_offered(header: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        chosen(header)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("header", "note"),
    [
        ("text,label", ""),
        ("review,rating", ""),
        ("Text,label", "the column 'Text' is taken for the text\n"),
        ("Text,Stars", "the column 'Text' is taken for the text; the column 'Stars' is taken for the label\n"),
    ],
)
def test_what_is_not_plain_is_said(prep: Prep, header: str, note: str) -> None:
    done = build(prep, write("a.csv", GOOD.replace("text,label", header)))
    assert (done.code, done.err) == (0, note)
    assert done.rows() == [([2, 6, 3], "x"), ([2, 7, 3], "y")]


def test_a_row_in_place_of_the_header_is_wondered_at(prep: Prep) -> None:
    """As in the files that the authors of AG's news and Yelp reviews publish."""
    done = build(prep, write("a.csv", '"3","Wall St. Bears Claw Back","Reuters - Short-sellers see green."\n'))
    assert done.code == 2
    assert "is its first line a row already? Put one above it that names the columns" in done.err
    assert "first line" not in build(prep, write("b.csv", "a,b\n1,2\n")).err


def test_pairs_are_built_and_said_or_offered(prep: Prep) -> None:
    rows = "word1,word2,x\nword3,word4,y\n"
    done = build(prep, write("a.csv", "premise,hypothesis,label\n" + rows))
    assert (done.code, done.err) == (0, "the columns 'premise' and 'hypothesis' are taken for pairs of texts\n")
    manifest = open_cache("cache/a").manifest
    assert manifest.task.pair
    assert (manifest.source["text"], manifest.source["text_pair"]) == ("premise", "hypothesis")
    done = build(prep, write("b.csv", "question,sentence,label\n" + rows), "--out", "other")
    offered = "for pairs pass --text question --text-pair sentence\n"
    assert (done.code, done.err) == (0, f"the column 'sentence' is taken for the text alone; {offered}")
    assert not open_cache(Path("other/a")).manifest.task.pair
