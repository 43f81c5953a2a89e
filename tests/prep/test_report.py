"""`prep report`: pages and pictures well formed, self-contained, in accord with the numbers, readable everywhere."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from cache import PlanSpec
from cache.common.axes import Axes, spread, ticks
from cache.common.svg import DARK, LIGHT, escape, label, sheet
from cache.errors import InputError, StorageError
from cache.plans.costs import plan_cost
from prep.cli import cli
from prep.inspect import figures
from prep.inspect.figures_data import envelope, in_source_order, plan_views, smaller_limits, truncations
from prep.inspect.figures_tokens import _marks, _shown, marked_rows
from prep.inspect.report import make_report, report_page, write_pictures, write_report
from tests.helpers.caches import write_cache
from tests.helpers.pages import CHROMIUM, Page, check_in_browser, check_page


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("report") / "toy", {"train": 700, "test": 60, "none": 0}, shards=2)


@pytest.fixture(scope="module")
def report(cache):
    return make_report(cache)


def test_the_report_is_one_well_formed_page_that_needs_nothing_else(report) -> None:
    page = check_page(report_page(report))
    assert len(page.drawings) > 10
    for figure in report.figures:
        assert figure.title in page.text


def test_the_numbers_of_the_report_are_those_of_the_plans(cache, report) -> None:
    """Tokens, overhead, saving and utilization on the page equal what `cache.plans.costs` counts."""
    split, text = cache["train"], Page(report_page(report)).text
    fixed = plan_cost(split.plan(PlanSpec("fixed", 8), 0), split.lengths, own_width=False)
    for strategy in ("dynamic", "smart", "tight"):
        cost = plan_cost(split.plan(PlanSpec(strategy, 8), 0), split.lengths)
        saving = 1 - cost.padded_tokens / fixed.padded_tokens
        assert f"{cost.padded_tokens:,}, {saving:.1%} less" in text
        assert f"{strategy}, 8 rows {cost.batches:,} {cost.padded_tokens:,} {cost.overhead:.1%} {saving:.1%}" in text
        assert f"{cost.utilization[8]:.0%}" in text
    assert f"{fixed.padded_tokens:,}" in text
    assert f"{split.info.rows:,}" in text
    assert f"{split.info.tokens:,}" in text
    assert cache.manifest.fingerprint in text


def test_the_same_cache_gives_the_same_page(cache, report) -> None:
    assert report_page(make_report(cache)) == report_page(report)


def test_a_drawn_batch_covers_its_tokens(cache) -> None:
    """The blue area of a batch is its real tokens, the whole its padded ones, also where rows are drawn in groups."""
    split = cache["train"]
    for view in plan_views(split):
        plan = split.plan(view.row.spec, 0)
        assert len(view.first) == 24
        for index, batch in enumerate(view.first):
            rows = plan.rows[plan.batch_offsets[index] : plan.batch_offsets[index + 1]]
            assert np.mean(batch.lengths) * batch.rows == pytest.approx(split.lengths[rows].sum())
            assert (batch.rows, batch.width) == (len(rows), plan.widths[index])


def test_source_order_is_that_of_the_source(cache) -> None:
    """The lengths drawn in source order are each row's length at its source row."""
    split = cache["train"]
    by_source = {row.source_row: len(row.input_ids) for row in split}
    expected = [by_source[number] for number in sorted(by_source)]
    found = in_source_order(split)
    assert found.jump == pytest.approx(np.abs(np.diff(expected)).mean())
    assert found.envelope.median[0] == np.median(expected[:3])


def test_an_envelope_has_bounded_size_and_the_quantiles_of_its_bins() -> None:
    values = np.random.default_rng(0).integers(1, 400, 12_345)
    found = envelope(values, 50)
    assert len(found.median) == 50
    first = values[: 12_345 // 50]
    assert (found.low[0], found.median[0], found.high[0]) == (first.min(), np.median(first), first.max())
    assert (found.low.min(), found.high.max()) == (values.min(), values.max())
    assert envelope(values[:1]).median.tolist() == [values[0]]


def test_truncation_counts_rows_and_tokens(cache) -> None:
    """Rows cut and tokens kept at each limit equal those counted row by row."""
    split = cache["train"]
    for found in truncations(split.info, 48, [1, 2, 17, 47, 48]):
        assert found.rows_cut == sum(length > found.max_length for length in split.lengths)
        assert found.tokens == sum(min(length, found.max_length) for length in split.lengths)
    assert smaller_limits(400, 400) == [64, 96, 128, 192, 256, 384]
    assert smaller_limits(400, 100)[-1] == 96


@pytest.mark.parametrize(
    ("sizes", "classes", "max_length"),
    [([5], ("only",), 8), ([3, 3], ("a", "b"), 3), ([2, 7, 9], tuple(f"class {n}" for n in range(40)), 4096)],
)
def test_odd_caches_are_drawn(tmp_path, sizes, classes, max_length) -> None:
    """One row, rows of one length, more classes than are drawn, a limit far above every row."""
    made = write_cache(
        tmp_path / "odd", {"train": len(sizes)}, lengths=np.array(sizes), classes=classes, max_length=max_length
    )
    drawn = make_report(made)
    check_page(report_page(drawn))
    for figure in drawn.figures:
        ElementTree.fromstring(sheet(figure, DARK))


def test_names_are_shown_not_obeyed(tmp_path) -> None:
    """Markup and control characters in a class's name stay text."""
    made = write_cache(tmp_path / "names", {"train": 9}, classes=("<script>alert(1)</script>", 'a\x00b&"'))
    text = report_page(make_report(made))
    assert "&lt;script&gt;" in text
    check_page(text)


def test_tokens_are_marked_by_kind(cache) -> None:
    """Special tokens, words and pieces are told apart; the tokens shown are the row's."""
    rows = marked_rows(cache["train"])
    assert len(rows) == 4
    for row in rows:
        kinds = [token.kind for token in row.head]
        assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("special", "special", {"word"})
        number = int(re.search(r"row (\d+),", row.about)[1])
        assert len(kinds) == cache["train"].lengths[number]
        assert row.label in ("neg", "pos")


@pytest.mark.parametrize(
    ("names", "kinds", "shown"),
    [
        (["[CLS]", "un", "##able", "[SEP]"], ["special", "word", "sub", "special"], ["[CLS]", "un", "##able", "[SEP]"]),
        (["<s>", "C", "af", "Ã©", "Ġbar"], ["special", "word", "sub", "sub", "word"], ["<s>", "C", "af", "é", "bar"]),
        (["▁Ca", "fé", "▁bar"], ["word", "sub", "word"], ["Ca", "fé", "bar"]),
    ],
)
def test_pieces_of_words_are_found_in_every_kind_of_vocabulary(names, kinds, shown) -> None:
    """WordPiece marks what goes on with ##, byte-level BPE and SentencePiece mark what begins."""
    assert _marks(names, [name[0] in "[<" for name in names]) == kinds
    byte_level = any(name.startswith("Ġ") for name in names)
    assert [_shown(name, byte_level) for name in names] == shown


@pytest.mark.slow
def test_the_command_writes_page_and_pictures(cache, tmp_path, monkeypatch) -> None:
    """`prep report` writes NAME-report.html; --png writes each picture in light and dark."""
    pytest.importorskip("resvg_py")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["report", str(cache.folder), "--png", "pictures"])
    assert done.exception is None, done.output
    assert "wrote toy-report.html" in done.output
    check_page(Path("toy-report.html").read_text("utf-8"))
    names = sorted(path.name for path in Path("pictures").iterdir())
    assert names == sorted(f"{f}{e}.png" for f in FIGURES for e in ("", "-dark"))
    assert sorted(path.name for path in Path().iterdir()) == ["pictures", "toy-report.html"]
    for path in Path("pictures").iterdir():
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert int.from_bytes(data[16:20], "big") > 900


FIGURES = ("batches", "costs", "lengths", "truncation", "widths", "classes")


def test_an_empty_split_is_refused_with_the_way_out(cache) -> None:
    with pytest.raises(InputError, match=r"'none' of .* has no rows.*pass --split train"):
        make_report(cache, "none")


def test_a_page_that_cannot_be_written_is_an_error(report, tmp_path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*nowhere"):
        write_report(report, tmp_path / "nowhere" / "page.html")


def test_missing_png_package_is_named(report, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "resvg_py", None)
    with pytest.raises(InputError, match=r"pip install 'lengthwise\[pictures\]'"):
        write_pictures(report, tmp_path)


# --- drawing


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 400, 4) == [0, 100, 200, 300, 400]
    assert ticks(0, 0.93, 4) == [0, 0.25, 0.5, 0.75]
    assert ticks(3, 3, 4) == [3]
    for high in (1e-5, 0.3, 7, 1e4, 1e9):
        assert 2 <= len(ticks(0, high, 4)) <= 6


def test_axes_map_their_ends_to_the_edges() -> None:
    axes = Axes((10, 20), (0, 1), width=100, height=50, left=5, right=5, top=10, bottom=10)
    assert axes.at_x([10, 15, 20]).tolist() == [5, 50, 95]
    assert axes.at_y([0, 1]).tolist() == [40, 10]


def test_labels_keep_their_distance() -> None:
    found = spread([50, 51, 49, 10], 12, 0, 100)
    assert np.diff(sorted(found)).min() >= 12 - 1e-9
    assert np.argsort(found, kind="stable").tolist() == [3, 2, 0, 1]


def test_colors_are_the_same_names_in_light_and_dark_and_text_can_be_read(report) -> None:
    """Every color drawn is defined in both; text and data stand out from the paper as WCAG asks (4.5 and 3 to 1)."""
    assert LIGHT.keys() == DARK.keys()
    used = set(re.findall(r"var\(--([\w]+)\)", report_page(report)))
    assert used <= LIGHT.keys()
    for palette in (LIGHT, DARK):
        for name in ("ink", "muted", "accent", *map(str, range(1, 9))):
            assert contrast(palette[name], palette["paper"]) >= 4.5, name
        assert contrast(palette["real"], palette["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors, as WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_is_escaped_for_xml() -> None:
    ElementTree.fromstring(label(0, 0, "<&\x07\ud800>"))
    assert escape("\x00") == "�"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1200, False), (1200, True)])
def test_the_report_fits_in_a_browser(report, tmp_path, width, dark) -> None:
    """In light and dark, on a phone and on a desk."""
    check_in_browser(report_page(report), tmp_path, width, dark)


def test_the_reviews_report_is_small_and_says_what_prep_info_says(imdb_cache) -> None:
    """The page of the real reviews stays far below 1.5 MB."""
    drawn = make_report(imdb_cache)
    text = report_page(drawn)
    assert len(text.encode()) < 300_000
    assert figures.overhead(drawn.views[2].row.cost) in check_page(text).text
