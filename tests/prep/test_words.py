"""Words with tags, from files to caches: every kind of file, CoNLL's columns and faults, splits, what is shown."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from cache import Cache, InputError
from prep.inspect.report import make_report
from prep.inspect.samples import random_samples
from prep.inspect.summary import class_counts, format_splits
from prep.tokenization.encoder import Encoder
from prep.tokenization.tokenizer_files import TokenizerFiles
from tests.helpers.builds import build_toy
from tests.helpers.files import content, write_jsonl
from tests.helpers.tokenizers import write_tokenizer

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP  O
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
    columns = {name: [row[name] for row in CONLL_ROWS] for name in ("tokens", "ner_tags")}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "b.parquet")
    large = {name: pa.array(values, pa.large_list(pa.large_string())) for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(large), tmp_path / "c.parquet")
    (tmp_path / "d.conll").write_text(CONLL)
    (tmp_path / "e.conll").write_text("EU\tB-ORG\r\nrejects\tO\r\n\u00a0\tO\r\n\r\n\r\nPeter\tB-PER", newline="")
    (tmp_path / "f.conll.gz").write_bytes(gzip.compress(CONLL.encode()))
    write_jsonl(tmp_path / "a.jsonl", CONLL_ROWS)
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
    write_jsonl(folder / "train.jsonl", [{"words": ["word1"], "tags": [10]}] * 3 + [{"words": ["word2"], "tags": [3]}])
    write_jsonl(folder / "test.jsonl", [{"words": ["word1", "word2"], "tags": [2, 10]}, {"words": [], "tags": []}])
    cache = build_toy(folder, tmp_path).cache
    assert cache.manifest.task.label_names == ("2", "3", "10")
    assert labels_of(cache) == {0: ["10"], 1: ["10"], 2: ["10"], 3: ["3"]}
    assert labels_of(cache, "test") == {0: ["2", "10"], 1: []}


def test_words_whose_tag_is_minus_100_have_none(tmp_path: Path) -> None:
    """As in transformers' scripts: it is no class, and no token of theirs has a label."""
    rows = [{"words": ["word1", "word2", "word3"], "tags": [-100, 1, 0]}, {"words": ["word1"], "tags": [-100]}]
    cache = build_toy(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path).cache
    assert cache.manifest.task.label_names == ("0", "1")
    assert {row.source_row: row.label for row in cache["train"]} == {0: [-100, -100, 1, 0, -100], 1: [-100] * 3}


def test_rows_held_out_and_limits_keep_words_and_tags_together(tmp_path: Path) -> None:
    """The classes are those of all rows."""
    rows = [{"tokens": [f"word{n}", "word0"], "ner_tags": [f"T{n}", "O"]} for n in range(40)]
    cache = build_toy(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path, holdout=0.25, limit=20).cache
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
    cache = build_toy(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path).cache
    assert class_counts(cache["train"]) == [8, 4]
    assert "O 67%, B-PER 33%" in format_splits(cache)
    (sample,) = random_samples(cache["train"], 1, 0)
    assert (sample.label, sample.text) == ("3 tagged words", "word1 word2/B-PER word3 word4")
    panels = [panel for figure in make_report(cache).figures for panel in figure.panels]
    assert any("Labelled tokens of each class" in panel.heading for panel in panels)


def test_comments_of_a_conll_file_are_no_words(tmp_path: Path) -> None:
    """Lines that begin with # before a sentence and have another number of cells, as in MultiCoNER and GermEval; a word
    that is # is one."""
    text = """# id 5239\tdomain=en

# id 5240\tdomain=en
# _ _ O
EU _ _ B-ORG

# id 5241\tdomain=en
Peter _ _ B-PER
# _ _ O
"""
    (tmp_path / "a.conll").write_text(text)
    (tmp_path / "b.conll").write_text(
        "# a b O\n#\tO\nEU\tB-ORG\n\n# a comment of many words\nPeter\tB-PER\n#\tO\n".replace("\t", "\t_\t_\t")
    )
    for name in ("a.conll", "b.conll"):
        cache = build_toy(tmp_path / name, tmp_path).cache
        assert labels_of(cache) == {0: ["O", "B-ORG"], 1: ["B-PER", "O"]}


CONLLU = """# newdoc
# sent_id = 1
# text = del perro no
1-2	del	_	_	_	_	_	_	_	_
1	de	de	ADP	IN	_	3	case	_	_
2	el	el	DET	DT	Definite=Def	3	det	_	_
3	perro	perro	NOUN	NN	_	0	root	_	_
3.1	es	ser	VERB	VB	_	_	_	_	_

# sent_id = 2
# a	b	c	d	e	f	g	h	i	j
1	no	no	INTJ	UH	_	0	root	_	_
2	#	#	SYM	SYM	_	1	punct	_	_
"""


def test_a_conllu_file_has_the_columns_of_its_format(tmp_path: Path) -> None:
    """Universal parts of speech unless another column is named; neither ranges nor empty nodes are words."""
    folder = tmp_path / "es_ud"
    folder.mkdir()
    (folder / "es_ud-ud-train.conllu").write_text(CONLLU)
    (folder / "es_ud-ud-dev.conllu").write_text(CONLLU.partition("\n\n")[2])
    cache = build_toy(folder, tmp_path).cache
    assert labels_of(cache) == {0: ["ADP", "DET", "NOUN"], 1: ["INTJ", "SYM"]}
    assert labels_of(cache, "validation") == {0: ["INTJ", "SYM"]}
    words = build_toy(folder / "es_ud-ud-train.conllu", tmp_path, label="deprel", name="deprel").cache
    assert labels_of(words) == {0: ["case", "det", "root"], 1: ["root", "punct"]}
    (tmp_path / "bad.conllu").write_text(CONLLU + "3 no no INTJ UH _ 0 root _ _\n")
    with pytest.raises(InputError, match="line 14: 1 cells in '3 no no"):
        build_toy(tmp_path / "bad.conllu", tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "holds no words"),
        ("# a comment\n", "holds no words"),
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


def test_a_tokenizer_without_room_for_words_says_so(tmp_path: Path) -> None:
    """As for texts."""
    files = TokenizerFiles(
        "toy", None, {"tokenizer.json": (write_tokenizer(tmp_path / "t") / "tokenizer.json").read_bytes()}
    )
    with pytest.raises(InputError, match="leaves no room for text"):
        Encoder(files, 2, words=True)
