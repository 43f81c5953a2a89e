"""The 25,000 real IMDb reviews: ids equal transformers' own, and the token table is as the tutorial found it."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from click.testing import CliRunner

from cache import Cache, PlanSpec
from cache.common import drawing
from cache.common.arrays import Array
from cache.common.hub import packaged_model
from cache.console.progress import ConsoleProgress
from cache.plans.costs import PlanCost, plan_cost
from prep.build import build
from prep.cli import cli
from prep.inspect import figures
from prep.inspect.figures_data import plan_views
from prep.inspect.summary import token_table
from prep.settings import BuildSettings
from tests.helpers.corpora import packaged_texts
from tests.helpers.files import without_time
from tests.helpers.pages import check_page

pytestmark = pytest.mark.slow

MAX_LENGTH = 400


@pytest.fixture(scope="module")
def reviews() -> pa.Table:
    """The packaged reviews, as pyarrow reads them."""
    table = packaged_texts()
    return table.filter(pc.equal(table["source"], "imdb"))


def telling(reviews: pa.Table, cache: Cache) -> list[int]:
    """Rows that hold every character of the reviews and every length in tokens, and each 25th."""
    chosen, seen = set(range(0, 25_000, 25)), set[str]()
    for row, text in enumerate(reviews["text"].to_pylist()):
        if not seen.issuperset(text):
            chosen.add(row)
            seen.update(text)
    _, first = np.unique(cache["train"].lengths, return_index=True)
    return sorted(chosen.union(cache["train"].source_rows[first].tolist()))


@pytest.mark.parametrize("rows", ["telling", pytest.param("all", marks=pytest.mark.faults)])
def test_ids_equal_those_of_transformers(imdb_cache: Cache, reviews: pa.Table, rows: str) -> None:
    """Of every review; in short, of those in which something can differ."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged_model())
    only = {"return_token_type_ids": False, "return_attention_mask": False}
    chosen = list(range(25_000)) if rows == "all" else telling(reviews, imdb_cache)
    texts = reviews["text"].take(chosen).to_pylist()
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, **only)["input_ids"]
    expected = dict(zip(chosen, encoded, strict=True))
    labels = reviews["label"].to_pylist()
    for row in imdb_cache["train"]:
        assert row.label == labels[row.source_row]
        if row.source_row in expected:
            assert row.input_ids.tolist() == expected.pop(row.source_row)
    assert not expected
    assert sorted(imdb_cache["train"].source_rows.tolist()) == list(range(25_000))


def test_rows_are_sorted_by_length_and_ties_keep_source_order(imdb_cache: Cache) -> None:
    split = imdb_cache["train"]
    lengths, rows = split.lengths.astype(np.int64), split.source_rows
    assert np.all(np.diff(lengths * 25_000 + rows) > 0)


def test_the_reviews_have_the_known_tokens(imdb_cache: Cache) -> None:
    info = imdb_cache["train"].info
    assert (info.rows, info.tokens, info.shortest, info.longest) == (25_000, 6_358_424, 13, 400)
    assert imdb_cache.manifest.task.label_names == ("neg", "pos")
    assert np.bincount(imdb_cache["train"].labels).tolist() == [12_500, 12_500]


def cost(cache: Cache, strategy: str, seed: int = 0) -> PlanCost:
    split = cache["train"]
    return plan_cost(split.draw(PlanSpec(strategy, 16, None, seed), 0), split.lengths)


def test_the_token_table_of_the_tutorial(imdb_cache: Cache) -> None:
    """At batch 16: fixed 10,000,000; random order hardly less; smart as the tutorial printed; tight next to none."""
    table = {row.spec.strategy: row for row in token_table(imdb_cache["train"])}
    assert list(table) == ["fixed", "dynamic", "smart", "tight"]
    padded = {strategy: row.cost.padded_tokens for strategy, row in table.items()}
    assert padded["fixed"] == 10_000_000
    assert 9_970_000 <= padded["dynamic"] <= 9_990_000
    assert 6_372_000 <= padded["smart"] <= 6_392_000
    assert padded["tight"] <= 6_362_500
    assert table["tight"].cost.uniform_batches >= 0.88 * table["tight"].cost.batches
    assert f"{table['smart'].saving(table['fixed'].cost):.1%}" == "36.2%"


def test_smart_batches_cost_what_the_tutorials_method_costs_for_any_seed(imdb_cache: Cache) -> None:
    totals = [cost(imdb_cache, "smart", seed).padded_tokens for seed in range(20)]
    assert all(6_372_000 <= total <= 6_392_000 for total in totals)
    assert 6_376_000 <= np.median(totals) <= 6_382_000


def test_tight_batches_are_nearly_free_of_padding_for_any_seed(imdb_cache: Cache) -> None:
    for seed in range(5):
        tight = cost(imdb_cache, "tight", seed)
        assert tight.padded_tokens <= 6_362_500
        assert tight.uniform_batches >= 0.88 * tight.batches


@pytest.mark.parametrize("limit", [1000, pytest.param(5000, marks=pytest.mark.faults)])
def test_the_slow_engine_makes_the_same_bytes_as_the_fast_one(imdb_cache: Cache, tmp_path: Path, limit: int) -> None:
    assert imdb_cache.manifest.build["engine"] == "nanotoken"
    assert imdb_cache.manifest.build["rows_checked"] >= 512
    fast, slow = (
        build(BuildSettings("imdb", out=tmp_path / name, limit=limit, engine=name), ConsoleProgress(quiet=True)).cache
        for name in ("nanotoken", "tokenizers")
    )
    assert (fast.manifest.build["engine"], slow.manifest.build["engine"]) == ("nanotoken", "tokenizers")
    assert fast.manifest.fingerprint == slow.manifest.fingerprint
    assert without_time(fast.folder, "build") == without_time(slow.folder, "build")


def test_a_fifth_is_held_out_by_default_the_classes_evenly(imdb_cache: Cache, tmp_path: Path) -> None:
    cache = build(BuildSettings("imdb", out=tmp_path, epochs=0), ConsoleProgress(quiet=True)).cache
    sizes = {name: np.bincount(split.labels).tolist() for name, split in cache.items()}
    assert sizes == {"train": [10_000, 10_000], "test": [2_500, 2_500]}
    together: Array = np.concatenate([split.source_rows for split in cache.values()])
    assert sorted(together.tolist()) == list(range(25_000))
    whole = imdb_cache["train"]
    numbers = np.argsort(whole.source_rows)
    for row in cache["test"]:
        assert np.array_equal(row.input_ids, whole[int(numbers[row.source_row])].input_ids)


PICTURES = ("batches", "costs", "lengths", "truncation", "classes")


def test_the_command_writes_page_and_pictures(
    imdb_cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NAME-report.html is far below 1.5 MB and has the numbers of `prep info`; --png writes each picture in light and
    dark, here the first alone, with a fourth of its pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "PNG_DPI", 72)
    figure_png = drawing.figure_png
    monkeypatch.setattr(
        drawing, "figure_png", lambda figure, colors: figure_png(figure, colors) if figure.name == PICTURES[0] else b""
    )
    done = CliRunner().invoke(cli, ["report", str(imdb_cache.folder), "--png", "pictures"])
    assert done.exception is None, done.output
    assert "wrote imdb-report.html" in done.output
    text = Path("imdb-report.html").read_text("utf-8")
    assert len(text.encode()) < 300_000
    assert figures.overhead(plan_views(imdb_cache["train"])[2].cost) in check_page(text).text
    names = sorted(path.name for path in Path("pictures").iterdir())
    assert names == sorted(f"{name}{ending}.png" for name in PICTURES for ending in ("", "-dark"))
    assert sorted(path.name for path in Path().iterdir()) == ["imdb-report.html", "pictures"]
    for path in Path("pictures").glob(f"{PICTURES[0]}*"):
        height, width, _ = matplotlib.image.imread(path).shape
        assert (width, height) > (450, 150), path
