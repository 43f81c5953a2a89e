"""`prep report`: pages and pictures well formed, self-contained, in accord with the numbers, readable everywhere."""

import io
import os
import re
import sys

import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner

from cache import PlanSpec
from cache.common.drawing import DARK, LIGHT, SERIES, Figure, Panel, figure_png, panel_svg, write_page, write_pngs
from cache.errors import InputError, StorageError
from cache.plans.costs import plan_cost
from prep.cli import cli
from prep.inspect import figures
from prep.inspect.figures_data import length_curve, plan_views, smaller_limits, truncations
from prep.inspect.figures_tokens import _marks, _shown, marked_rows
from prep.inspect.report import make_report, report_page
from tests.helpers.builds import build_toy
from tests.helpers.caches import write_cache
from tests.helpers.corpora import write_rows
from tests.helpers.pages import CHROMIUM, Page, check_in_browser, check_page


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("report") / "toy", {"train": 700, "test": 60, "none": 0}, shards=2)


@pytest.fixture(scope="module")
def report(cache):
    return make_report(cache)


@pytest.fixture(scope="module")
def page(report):
    return report_page(report)


@pytest.mark.slow
def test_the_report_is_one_well_formed_page_that_needs_nothing_else(report, page) -> None:
    found = check_page(page)
    assert len(found.drawings) == 9
    for figure in report.figures:
        assert figure.title in found.text


@pytest.mark.slow
def test_the_numbers_of_the_report_are_those_of_the_plans(cache, page) -> None:
    """Tokens, overhead and saving on the page equal what `cache.plans.costs` counts."""
    split, text = cache["train"], Page(page).text
    fixed = plan_cost(split.plan(PlanSpec("fixed", 8), 0), split.lengths)
    for strategy in ("dynamic", "smart", "tight"):
        cost = plan_cost(split.plan(PlanSpec(strategy, 8), 0), split.lengths)
        saving = 1 - cost.padded_tokens / fixed.padded_tokens
        assert f"{cost.padded_tokens:,}, {saving:.1%} less" in text
        assert f"{strategy}, 8 rows {cost.batches:,} {cost.padded_tokens:,} {cost.overhead:.1%} {saving:.1%}" in text
    assert f"{fixed.padded_tokens:,}" in text
    assert f"{split.info.rows:,}" in text
    assert f"{split.info.tokens:,}" in text
    assert cache.manifest.fingerprint in text


@pytest.mark.slow
def test_the_same_cache_gives_the_same_page(cache, page) -> None:
    assert report_page(make_report(cache)) == page


def test_a_drawn_batch_covers_its_tokens(cache) -> None:
    """The blue area of a batch is its real tokens, the whole its padded ones, also where rows are drawn in groups."""
    split = cache["train"]
    for view in plan_views(split):
        plan = split.plan(view.spec, 0)
        assert len(view.first) == 24
        for index, batch in enumerate(view.first):
            rows = plan.rows[plan.batch_offsets[index] : plan.batch_offsets[index + 1]]
            assert np.mean(batch.lengths) * batch.rows == pytest.approx(split.lengths[rows].sum())
            assert (batch.rows, batch.width) == (len(rows), plan.widths[index])


def test_lengths_are_drawn_in_the_order_of_the_source_and_of_the_cache(cache, report) -> None:
    """The mean steps between neighbors in the title are those counted row by row."""
    split = cache["train"]
    by_source = {row.source_row: len(row.input_ids) for row in split}
    source = length_curve(np.array([by_source[number] for number in sorted(by_source)]))
    expected = figures.lengths(source, length_curve(split.lengths), cache.manifest.max_length)
    (drawn,) = (figure for figure in report.figures if figure.name == "lengths")
    assert (drawn.title, [panel.about for panel in drawn.panels]) == (
        expected.title,
        [panel.about for panel in expected.panels],
    )
    assert source.jump > length_curve(split.lengths).jump
    assert not re.search("light|dark", drawn.caption)  # what is lighter on white is darker on black


def test_a_curve_of_lengths_has_bounded_size_and_the_quantiles_of_its_bins() -> None:
    values = np.random.default_rng(0).integers(1, 400, 12_345)
    low, _, median, _, high = length_curve(values, 50).quantiles
    first = values[: 12_345 // 50]
    assert len(median) == 50
    assert (low[0], median[0], high[0]) == (first.min(), np.median(first), first.max())
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert length_curve(values[:1]).quantiles.tolist() == [[values[0]]] * 5


def test_truncation_counts_rows_and_tokens(cache) -> None:
    """Rows cut and tokens kept at each limit equal those counted row by row."""
    split = cache["train"]
    for found in truncations(split.info, 48, [1, 2, 17, 47, 48]):
        assert found.rows_cut == sum(length > found.max_length for length in split.lengths)
        assert found.tokens == sum(min(length, found.max_length) for length in split.lengths)
    assert smaller_limits(400, 400) == [64, 96, 128, 192, 256, 384]
    assert smaller_limits(400, 100)[-1] == 96


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "classes", "max_length"),
    [
        ([5], ("only",), 8),
        pytest.param([3, 3], ("a", "b"), 3, marks=pytest.mark.faults),
        ([2, 7, 9], ("<script>alert(1)</script>", 'a\x00b&"$', *(f"class {n}" for n in range(38))), 4096),
    ],
)
def test_odd_caches_are_drawn(tmp_path, monkeypatch, sizes, classes, max_length) -> None:
    """One row, rows of one length, more classes than are drawn, a limit far above every row; on a page, and where
    markup and control characters in a class's name stay text, as PNG too, of few pixels."""
    monkeypatch.setattr("cache.common.drawing.PNG_DPI", 24)
    made = write_cache(
        tmp_path / "odd", {"train": len(sizes)}, lengths=np.array(sizes), classes=classes, max_length=max_length
    )
    drawn = make_report(made)
    page = report_page(drawn)
    check_page(page)
    assert ("&lt;script&gt;" in page) == ("<script>alert(1)</script>" in classes)
    for figure in drawn.figures if "&lt;script&gt;" in page else ():
        height, width, _ = matplotlib.image.imread(io.BytesIO(figure_png(figure, LIGHT)), format="png").shape
        assert (width, height) > (150, 50), figure.name


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


def test_rows_of_several_classes_are_drawn_with_their_share_of_the_rows(tmp_path) -> None:
    rows = [("word1", ["a", "b"]), ("word2", ["a"]), ("word3", ["a"]), ("word4", [])]
    drawn = make_report(build_toy(write_rows(tmp_path / "a.jsonl", rows), tmp_path).cache).figures[-1]
    assert drawn.title == "The largest class, a, has 75.0% of the rows, the smallest, b, 25.0%"
    assert drawn.caption == "4 rows."
    assert figures.classes([3, 3], ["a", "b"], 4).caption == "4 rows, which may be of several classes."


def test_an_empty_split_is_refused_with_the_way_out(cache) -> None:
    with pytest.raises(InputError, match=r"'none' of .* has no rows.*pass --split train"):
        make_report(cache, "none")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path) -> None:
    with pytest.raises(StorageError, match=r"cannot write .*nowhere"):
        write_page(tmp_path / "nowhere" / "page.html", "a page")
    os.mkfifo(tmp_path / "page.html")
    with pytest.raises(InputError, match="it is a folder, pipe or device, expected the name of a file"):
        write_page(tmp_path / "page.html", "a page")


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named_before_any_work_is_done(cache, monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(cli, ["report", str(cache.folder)])
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert str(done.exception) == f"prep report needs {name}: pip install 'lengthwise[pictures]'"


# --- drawing


@pytest.mark.slow
def test_colors_are_the_same_names_in_light_and_dark_and_text_can_be_read(page) -> None:
    """The page defines every color it uses for both themes; text and data stand out from the paper as WCAG asks."""
    assert LIGHT.keys() == DARK.keys()
    light, dark = re.findall(r":root\{([^}]*)\}", page)
    for block, palette in ((light, LIGHT), (dark, DARK)):
        assert dict(re.findall(r"--(\w+):(#\w+);", block)) == palette
        for name in ("ink", "muted", *SERIES):
            assert contrast(palette[name], palette["paper"]) >= 4.5, name
    drawings = "".join(Page(page).drawings)
    assert set(re.findall(r"var\(--(\w+)\)", drawings)) <= LIGHT.keys()
    assert not re.search(r"#[0-9a-f]{6}\b(?!\d)", re.sub(r"url\(#\w+\)|href=\"#\w+\"|id=\"\w+\"", "", drawings))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colors, as WCAG defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_in_a_drawing_stays_text(tmp_path) -> None:
    """Markup, mathematics and characters that XML cannot hold are shown, not obeyed."""
    panel = Panel("<&\x07\ud800> $x^2$", lambda axes, colors: axes.set_xlim(0, 1), "<b>")
    drawing = str(panel_svg(panel))
    assert 'aria-label="&lt;b&gt;"' in drawing
    assert "&lt;&amp;��&gt; $x^2$" in drawing
    assert len(write_pngs([Figure("odd", panel.heading, panel.heading, (panel,))], tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1200, False), (1200, True)])
def test_the_report_fits_in_a_browser(page, tmp_path, width, dark) -> None:
    """In light and dark, on a phone and on a desk."""
    check_in_browser(page, tmp_path, width, dark)
