"""`train predict --file … --out …`: the rows of a file with their predictions, beside transformers' pipeline."""

import csv
import datetime
import gzip
import json
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForTokenClassification, pipeline

from cache.console.progress import ConsoleProgress
from cache.errors import InputError
from tests.helpers.corpora import WORDS
from tests.helpers.files import edit_json, read_jsonl, write_jsonl
from tests.helpers.models import KINDS, write_encoder
from train.cli import main
from train.models.heads import quiet_transformers
from train.predict import Predictor
from train.predict_file import predict_file
from train.tables import reading
from train.tables.reading import Chunk, open_table
from train.tables.writing import open_writer

pytestmark = pytest.mark.slow

NAMES = {0: "bad", 1: "so, so", 2: "good"}
TEXTS = [" ".join(np.random.default_rng(n).choice(WORDS, n % 23 + 1)) for n in range(40)]
AWKWARD = ['"quoted", with\nline\r\nbreaks', "line\u2028ends\u2029and\u0085more", "tab\tand ünïcode 漢字", "=1+1"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each task, of random weights."""
    folder = tmp_path_factory.mktemp("models")
    labels = {"classes": list(NAMES.values())}
    write_encoder(folder / "classes", KINDS["bert"], **labels)
    write_encoder(folder / "regression", KINDS["bert"], classes=1, problem_type="regression")
    write_encoder(folder / "multi-label", KINDS["bert"], **labels, problem_type="multi_label_classification")
    for name in ("classes", "multi-label"):
        (folder / name / "lengthwise.json").write_text('{"max_length": 40, "pair": false}')
    write_encoder(folder / "pairs", KINDS["bert"], **labels)
    (folder / "pairs" / "lengthwise.json").write_text('{"max_length": 40, "pair": true}')
    write_tagger(folder / "tags")
    return folder


def write_tagger(folder: Path) -> None:
    write_encoder(folder, KINDS["bert"], classes=("O", "B-A", "I-A"))
    with quiet_transformers():
        AutoModelForTokenClassification.from_pretrained(folder).save_pretrained(folder)


@pytest.fixture
def run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `train predict` in an empty folder; returns its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(model: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["train", "predict", str(models / model), *arguments, "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(end.value.code or 0), captured.out, captured.err

    return command


def write_csv(name: str, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    with Path(name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(name: str) -> list[dict[str, str]]:
    with Path(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_pipeline(model: Path, texts: list[Any], **options: Any) -> Any:
    with quiet_transformers():
        classify = pipeline("text-classification", model=str(model), device="cpu", top_k=None, **options)
        return classify(texts, truncation=True, max_length=40)


def test_a_csv_comes_back_with_the_pipeline_s_probabilities_in_order(models: Path, run: Run) -> None:
    """The rows are as they were, of any length and in any order, and the probabilities are transformers' own."""
    texts = [*TEXTS, *AWKWARD]
    write_csv("in.csv", [{"id": str(n), "text": text, "label": ""} for n, text in enumerate(texts)])
    code, out, err = run("classes", "--file", "in.csv", "--out", "out.csv", "--batch-size", "7")
    assert (code, err) == (0, "")
    rows = read_csv("out.csv")
    assert list(rows[0]) == ["id", "text", "label", "predicted_label", *(f"probability_{n}" for n in NAMES.values())]
    assert [(row["id"], row["text"], row["label"]) for row in rows] == [(str(n), t, "") for n, t in enumerate(texts)]
    for row, expected in zip(rows, by_pipeline(models / "classes", texts), strict=True):
        assert row["predicted_label"] == expected[0]["label"]
        for one in expected:
            assert float(row[f"probability_{one['label']}"]) == pytest.approx(one["score"], abs=1e-6)
    assert f"rows       {len(texts)} in 0:00:" in out
    assert "wrote      out.csv" in out
    assert sorted(path.name for path in Path().iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.parametrize("written", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("read", ["in.csv", "in.tsv", "in.jsonl", "in.jsonl.gz", "in.parquet", "in.txt"])
def test_every_format_is_read_and_written(run: Run, read: str, written: str) -> None:
    texts = [text for text in AWKWARD if read != "in.txt" or "\n" not in text]
    rows = [{"text": text} for text in texts]
    if read in ("in.csv", "in.tsv"):
        write_csv(read, rows, "\t" if read == "in.tsv" else ",")
    elif read == "in.parquet":
        pq.write_table(pa.table({"text": texts}), read)
    elif read == "in.txt":
        Path(read).write_text("".join(f"{text}\n" for text in texts), "utf-8")
    else:
        data = write_jsonl(Path(read), rows).read_bytes()
        Path(read).write_bytes(gzip.compress(data) if read.endswith(".gz") else data)
    code, _, err = run("classes", "--file", read, "--out", written)
    assert (code, err) == (0, "")
    if written == "out.jsonl":
        lines = Path(written).read_text("utf-8").splitlines()  # which splits at U+2028, U+2029 and U+0085 too
        found = [json.loads(line) for line in lines]
    elif written == "out.parquet":
        found = pq.read_table(written).to_pylist()
    else:
        with Path(written).open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file, delimiter="\t" if written == "out.tsv" else ","))
    assert [row["text"] for row in found] == texts
    assert all(row["predicted_label"] in NAMES.values() for row in found)
    for row in found:
        assert sum(float(row[f"probability_{name}"]) for name in NAMES.values()) == pytest.approx(1, abs=1e-5)


def test_types_and_nested_fields_stay(run: Run) -> None:
    rows = [{"text": "word1", "n": 1, "more": {"a": [1, None, "x"]}}, {"text": "word2", "other": True}]
    write_jsonl(Path("in.jsonl"), rows)
    assert run("classes", "--file", "in.jsonl", "--out", "out.jsonl")[0] == 0
    found = read_jsonl(Path("out.jsonl"))
    assert [{name: value for name, value in row.items() if "p" not in name} for row in found] == rows
    table = pa.table(
        {"text": ["word1", "word2"], "when": pa.array([1, 2], pa.timestamp("ns")), "n": pa.array([1, 2], pa.uint8())}
    )
    pq.write_table(table, "in.parquet")
    assert run("classes", "--file", "in.parquet", "--out", "out.parquet")[0] == 0
    assert pq.read_table("out.parquet").select(table.column_names) == table
    assert pq.read_schema("out.parquet").field("probability_bad").type == pa.float32()


def test_the_other_tasks_have_columns_of_their_own(models: Path, run: Run) -> None:
    write_csv("in.csv", [{"text": text, "second": text[::-1]} for text in TEXTS])
    assert run("regression", "--file", "in.csv", "--out", "numbers.csv", "--text", "text")[0] == 0
    expected = by_pipeline(models / "regression", TEXTS, function_to_apply="none")
    for row, [one] in zip(read_csv("numbers.csv"), expected, strict=True):
        assert float(row["predicted_value"]) == pytest.approx(one["score"], abs=1e-5)
    assert run("multi-label", "--file", "in.csv", "--out", "sets.csv")[0] == 0
    for row, one in zip(read_csv("sets.csv"), by_pipeline(models / "multi-label", TEXTS), strict=True):
        scores = {part["label"]: part["score"] for part in one}
        assert {n: float(row[f"probability_{n}"]) for n in scores} == pytest.approx(scores, abs=1e-6)
        assert json.loads(row["predicted_labels"]) == [name for name in NAMES.values() if scores[name] > 0.5]
    assert run("pairs", "--file", "in.csv", "--out", "pairs.csv", "--text-pair", "second")[0] == 0
    pairs = [{"text": text, "text_pair": text[::-1]} for text in TEXTS]
    for row, one in zip(read_csv("pairs.csv"), by_pipeline(models / "pairs", pairs), strict=True):
        assert float(row[f"probability_{one[0]['label']}"]) == pytest.approx(one[0]["score"], abs=1e-6)


def test_words_are_taken_as_a_list_or_split_at_spaces(models: Path, run: Run) -> None:
    words = [text.split() for text in TEXTS]
    pq.write_table(pa.table({"text": words}), "in.parquet")
    write_csv("in.csv", [{"text": text} for text in TEXTS])
    assert run("tags", "--file", "in.parquet", "--out", "lists.jsonl")[0] == 0
    assert run("tags", "--file", "in.csv", "--out", "split.jsonl")[0] == 0
    lists, split = (read_jsonl(Path(f"{name}.jsonl")) for name in ("lists", "split"))
    assert [row["predicted_tags"] for row in lists] == [row["predicted_tags"] for row in split]
    alone = Predictor(str(models / "tags"))
    for row, text in zip(lists, TEXTS, strict=True):
        [expected] = alone([text])
        assert row["predicted_tags"] == expected.facts["tags"]
        assert row["tag_probabilities"] == pytest.approx(expected.facts["probabilities"], abs=1e-6)


@pytest.mark.parametrize("model", ["classes", "regression", "multi-label", "tags"])
def test_outputs_that_are_not_finite_are_refused_with_the_text(models: Path, model: str) -> None:
    predictor = Predictor(str(models / model))
    predictor.model.classifier.bias.data[0] = torch.nan
    with pytest.raises(InputError, match="are not finite for the text 'word2 word3' and 1 more of its batch"):
        predictor.outputs(["word1", "word2 word3"])


@pytest.mark.parametrize("model", ["classes", "pairs"])
def test_long_texts_are_truncated_on_the_tokenizers_side(models: Path, tmp_path: Path, model: str) -> None:
    """As those that the model was trained on. Of two long texts `tokenizers` would keep every combination of the
    pieces that it cuts off, so it cuts off nothing of pairs."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(models / model, tmp_path / model)
    edit_json(folder / "tokenizer_config.json", truncation_side="left")
    columns = [[" ".join(WORDS[:count]) for count in counts] for counts in ([3, 30, 90], [50, 3, 80])]
    columns = columns[: 2 if model == "pairs" else 1]
    expected = AutoTokenizer.from_pretrained(folder)(*columns, truncation=True, max_length=40)["input_ids"]
    predictor = Predictor(str(folder))
    texts = list(zip(*columns, strict=True)) if model == "pairs" else columns[0]
    assert [row.ids.tolist() for row in predictor._encode(texts)] == expected
    assert (predictor.tokenizer.truncation is None) == (model == "pairs")


def test_rows_without_text_are_written_without_a_prediction(run: Run) -> None:
    Path("in.jsonl").write_text('{"text": "word1"}\n{"text": null}\n\n{"text": "  "}\n{"other": 1}\n')
    code, out, _ = run("classes", "--file", "in.jsonl", "--out", "out.jsonl", "--json")
    assert code == 0
    facts = json.loads(out)
    assert {name: facts[name] for name in ("out", "rows", "without_text")} == {
        "out": "out.jsonl",
        "rows": 4,
        "without_text": 3,
    }
    found = read_jsonl(Path("out.jsonl"))
    assert [row["predicted_label"] is None for row in found] == [False, True, True, True]
    assert [row["probability_good"] is None for row in found] == [False, True, True, True]


def test_what_json_does_not_have_is_written_as_text_and_what_is_not_finite_as_null(tmp_path: Path) -> None:
    """A date in csv stands there without quotes, and a line of JSON is JSON for every reader."""
    content = {"day": [datetime.date(2020, 1, 2)], "price": [Decimal("1.50")], "score": [float("nan")], "ok": [True]}
    chunk = Chunk(0, tuple(content), pa.table(content), 0)
    for name in ("out.csv", "out.jsonl"):
        with open_writer(tmp_path / name, {}) as write:
            write(chunk, {})
    assert (tmp_path / "out.csv").read_text() == "day,price,score,ok\n2020-01-02,1.50,NaN,true\n"
    expected = '{"day": "2020-01-02", "price": "1.50", "score": null, "ok": true}\n'
    assert (tmp_path / "out.jsonl").read_text() == expected


def test_a_long_file_is_read_in_chunks(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so many rows, or so many bytes; what comes out does not depend on it."""
    monkeypatch.chdir(tmp_path)
    write_csv("in.csv", [{"text": text} for text in TEXTS])
    pq.write_table(pa.table({"text": TEXTS}), "in.parquet", row_group_size=3)
    predictor = Predictor(str(models / "classes"))
    found = []
    for name, size in (("CHUNK_ROWS", 1 << 20), ("CHUNK_ROWS", 7), ("CHUNK_BYTES", 100)):
        for source in ("in.csv", "in.parquet"):
            with monkeypatch.context() as patch:
                patch.setattr(reading, name, size)
                table, ends, chunks = open_table(Path(source)), [], 0
                for chunk in table.chunks:
                    ends.append(chunk.end_bytes)
                    chunks += 1
                assert (chunks > 3) == (size < 1000)
                assert ends == sorted(ends)
                assert ends[-1] == Path(source).stat().st_size
                done = predict_file(
                    predictor, open_table(Path(source)), ("text",), Path("out.csv"), ConsoleProgress(True)
                )
                assert done.rows == len(TEXTS)
                found.append(read_csv("out.csv"))
    for other in found[1:]:
        assert [row["text"] for row in other] == TEXTS
        assert [row["predicted_label"] for row in other] == [row["predicted_label"] for row in found[0]]
        ours, theirs = ([float(row["probability_good"]) for row in rows] for rows in (found[0], other))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


GOOD = "text,label\nword1,x\n"
HOSTILE: dict[str, tuple[str, bytes | str, list[str], str]] = {
    "no such file": ("", "", ["--file", "gone.csv", "--out", "o.csv"], "--file gone.csv cannot be read (No such file"),
    "empty": ("in.csv", "", [], "has no rows, expected at least one below the header"),
    "header only": ("in.csv", "text,label\n", [], "has no rows"),
    "empty parquet": ("in.parquet", "", [], "--file in.parquet cannot be read as parquet"),
    "no parquet": ("in.parquet", "PAR1 what is this PAR1", [], "--file in.parquet cannot be read as parquet"),
    "cut gzip": ("in.csv.gz", gzip.compress(GOOD.encode() * 99)[:30], [], "cannot be read (Compressed file ended"),
    "no gzip": ("in.csv.gz", GOOD, [], "line 1 cannot be read (Not a gzipped file"),
    "no column": ("in.csv", GOOD, ["--text", "review"], "has no column 'review' for --text; it has 'text', 'label'"),
    "which column": ("in.csv", "a,b\nc,d\n", [], "nothing tells which column of in.csv is the text; pass --text"),
    "no columns": ("in.jsonl", "{}\n", [], "nothing tells which column of in.jsonl is the text"),
    "semicolons": ("in.csv", "text;label\nword1;x\n", [], "separated by something else than commas? Then pass --delim"),
    "semicolons and commas": ("in.csv", "text;label\na, b;x\n", [], "by something else than ','? Pass --delimiter ';'"),
    "no header": ("in.csv", f"{'word ' * 13}\nword2\n", [], "is its first line a row? Then put a line such as"),
    "delimiter of json": ("in.jsonl", "{}", ["--delimiter", ";"], "--delimiter is for csv and tsv, but --file"),
    "quotes of json": ("in.jsonl", "{}", ["--no-quotes"], "--no-quotes is for csv and tsv, but --file in.jsonl"),
    "rows in quotes": ("in.tsv", 'text\tb\n"a\tx\nc"\ty\n', [], "row 0 (counted from 0) holds tabs and 1 line break"),
    "quotes in text": ("in.csv", 'text,b\n\na,x\n"b,y\nc" d,x\n', [], "lines 4 to 5 are one row, for a quote"),
    "backslashes": ("in.csv", 'text,b\n"a \\"b\\" c",x\n', [], "the row that begins on line 2 are written as"),
    "ragged quotes": ("in.csv", 'text,label\n"a,b,c\n', ["--no-quotes"], "quote such texts and leave out --no-quotes"),
    "long delimiter": ("in.csv", GOOD, ["--delimiter", ";;"], "--delimiter ';;' is not one character such as ';'"),
    "two columns": ("in.csv", "text,text\nc,d\n", [], "has 2 columns 'text'; rename all but one"),
    "latin1": ("in.csv", "text\nna\xefve\n".encode("latin1"), [], "line 2 is not UTF-8 (byte 0xef at position 2 of"),
    "utf-16": ("in.csv", GOOD.encode("utf-16"), [], "iconv -f utf-16 -t utf-8 in.csv > utf8-in.csv"),
    "ragged": ("in.csv", GOOD + "a,b,c\n", [], "row 1 (counted from 0, ends on line 3) has 3 cells, the header 2"),
    "open quote": ("in.csv", GOOD + '"never closed,\n', [], "cells, the header 2; put quotes around"),
    "open last quote": ("in.csv", 'text\nword1\n"never closed\n', [], "unexpected end of data; put texts in quotes"),
    "json list": ("in.jsonl", '[{"text": "a"}]', [], "expected one JSON object per line; convert a list: jq -c '.[]'"),
    "no json": ("in.jsonl", '{"text": "a"}\n{text}\n', [], "line 2: Expecting property name"),
    "deep json": ("in.jsonl", "[" * 100_000, [], "line 1: maximum recursion depth exceeded"),
    "number": ("in.jsonl", '{"text": 5}', [], "row 0 (counted from 0) holds 5 in the column 'text', expected text"),
    "unknown ending": ("in.xls", GOOD, [], "--file in.xls: its ending does not say what it is; expected .csv, .tsv"),
    "unknown out": ("in.csv", GOOD, ["--out", "o.xls"], "--out o.xls: its ending does not say what to write"),
    "no folder": ("in.csv", GOOD, ["--out", "a/o.csv"], "there is no folder a; make it: mkdir -p a"),
    "same file": ("in.csv", GOOD, ["--out", "in.csv", "--force"], "--out in.csv is the file that is read"),
    "there already": ("in.csv", GOOD, ["--out", "there.csv"], "is there already; pass another name, or --force"),
    "taken": ("in.csv", "text,predicted_label\na,b\n", [], "has a column 'predicted_label', which is the name of one"),
    "pair": ("in.csv", GOOD, ["--text-pair", "label"], "takes single texts; leave out --text-pair"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_wrong_is_said_with_the_remedy_and_leaves_nothing(run: Run, case: str) -> None:
    name, content, arguments, message = HOSTILE[case]
    Path("there.csv").write_text("mine")
    if name:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        arguments = ["--file", name, *arguments]
    if "--out" not in arguments:
        arguments = [*arguments, "--out", "out.csv"]
    code, out, err = run("classes", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert {path.name for path in Path().iterdir()} == {"there.csv", *filter(None, [name])}
    assert Path("there.csv").read_text() == "mine"


def test_a_csv_of_another_separator_is_read_by_it_and_written_with_commas(run: Run) -> None:
    Path("in.csv").write_text('text;note\n"word1; word2";a,b\n')
    assert run("classes", "--file", "in.csv", "--delimiter", ";", "--out", "out.csv")[0] == 0
    Path("in.csv").write_text("text\tnote\nword1; word2\ta,b\n")
    assert run("classes", "--file", "in.csv", "--delimiter", "\\t", "--out", "tabs.csv")[0] == 0
    assert read_csv("out.csv") == read_csv("tabs.csv")
    assert {"text": "word1; word2", "note": "a,b"}.items() <= read_csv("out.csv")[0].items()


def test_text_behind_a_quote_is_read_as_by_pythons_csv_module(run: Run) -> None:
    """In rows of several lines where `--quotes` asks for it."""
    content = 'text,note\n"word1" word2,x\n\n"word1" word2,"y\nz"\n'
    Path("in.csv").write_text(content)
    assert run("classes", "--file", "in.csv", "--quotes", "--out", "out.csv")[0] == 0
    texts = [(row["text"], row["note"]) for row in read_csv("out.csv")]
    assert texts == [("word1 word2", "x"), ("word1 word2", "y\nz")]
    Path("in.csv").write_text(content[: content.index("\n\n") + 1])
    assert run("classes", "--file", "in.csv", "--out", "out.csv", "--force")[0] == 0
    assert read_csv("out.csv")[0]["text"] == "word1 word2"


def test_quotes_may_be_part_of_the_text(run: Run) -> None:
    """As by Python's csv module without quoting; written as any csv file."""
    Path("in.tsv").write_text('text\tnote\n"word1\tx\nword2 "word3"\ty"\n')
    assert run("classes", "--file", "in.tsv", "--no-quotes", "--out", "out.tsv")[0] == 0
    with Path("in.tsv").open(newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    with Path("out.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    assert [{name: row[name] for name in ("text", "note")} for row in found] == expected


def test_options_that_go_together_are_asked_for(models: Path, run: Run) -> None:
    Path("in.csv").write_text(GOOD)
    for arguments, message in (
        (["--file", "in.csv"], "--file in.csv is csv, a file of rows; pass --out"),
        (["a text", "--out", "o.csv"], "--out goes with --file; pass --file FILE too"),
        (["--file", "in.txt", "--no-quotes"], "--no-quotes goes with --file and --out"),
        (["--file", "in.txt", "--text", "a"], "--text goes with --file and --out; pass --out FILE too"),
        (["--file", "in.txt.gz"], "--file in.txt.gz is packed; pass --out with a file to write its rows to"),
    ):
        code, _, err = run("classes", *arguments)
        assert code == 2
        assert message in err
    code, _, err = run("pairs", "--file", "in.csv", "--out", "o.csv")
    assert code == 2
    assert (
        "takes pairs of texts, and 'text' is the first; pass --text-pair with the column of the second one: 'label'"
        in err
    )


def test_a_file_is_replaced_with_force_only_once_it_is_complete(run: Run) -> None:
    Path("in.jsonl").write_text('{"text": "word1"}\n{"text": 5}\n')
    Path("out.csv").write_text("old")
    assert run("classes", "--file", "in.jsonl", "--out", "out.csv", "--force")[0] == 2
    assert Path("out.csv").read_text() == "old"
    Path("in.jsonl").write_text('{"text": "word1"}\n')
    assert run("classes", "--file", "in.jsonl", "--out", "out.csv", "--force")[0] == 0
    assert Path("out.csv").read_text().startswith("text,predicted_label")


def test_columns_that_do_not_go_on_are_an_error_that_names_the_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_ROWS", 1)
    Path("in.jsonl").write_text('{"text": "word1", "n": 1}\n{"text": "word2", "new": 5}\n')
    code, _, err = run("classes", "--file", "in.jsonl", "--out", "out.csv")
    assert (code, "have a field 'new', which those before do not have; write --out FILE.jsonl" in err) == (2, True)
    Path("in.jsonl").write_text('{"text": "word1", "n": 1}\n{"text": "word2", "n": "x"}\n')
    code, _, err = run("classes", "--file", "in.jsonl", "--out", "out.parquet")
    assert (code, "the column 'n' holds values that no parquet column holds together" in err) == (2, True)
    assert run("classes", "--file", "in.jsonl", "--out", "out.jsonl")[0] == 0


def test_equal_lengths_get_no_mask_and_the_longest_texts_come_first(models: Path) -> None:
    """And the last layer is computed for the pooled token alone."""
    predictor = Predictor(str(models / "classes"), batch_size=8)
    inner: Any = predictor.model
    assert "forward" in vars(inner.bert.encoder.layer[-1])  # its own, in place of the class's
    seen: list[tuple[int, bool]] = []

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        seen.append((given["input_ids"].shape[1], "attention_mask" in given))

    inner.register_forward_pre_hook(note, with_kwargs=True)
    shares: list[float] = []
    predictor.outputs(["word1"] * 12 + ["word1 word2 word3"] * 8, shares.append)
    assert [mask for _, mask in seen] == [False] * 3
    assert [width for width, _ in seen] == sorted((width for width, _ in seen), reverse=True)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    predictor.outputs(["word1", "word1 word2"])
    assert seen[-1][1]
