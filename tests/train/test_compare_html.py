"""`train compare --html`: runs grouped by what they differ in, their curves, their means and deviations."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from cache.common.drawing import LIGHT
from cache.common.folder import Folder
from cache.errors import InputError
from tests.helpers.pages import CHROMIUM, check_in_browser, check_page
from train.cli import cli
from train.compare.curves import RunCurves, curves_of, group_runs, smooth
from train.compare.figures import comparison_page, learning
from train.compare.results import read_result, to_json
from train.compare.table import comparison, groups_to_json
from train.run_folder.folder import METRICS, TIMING, RunInfo, Summary, write_settings, write_summary
from train.run_folder.records import Records
from train.settings import Settings

pytestmark = pytest.mark.slow


def read_curves(folder: Path) -> RunCurves:
    return curves_of(read_result(folder))


def write_run(
    folder: Path,
    seed: int,
    strategy: str = "smart",
    steps: int = 60,
    score: str = "accuracy",
    split: str = "test",
    resumed: int | None = None,
    **changes,
) -> Path:
    """A run folder with made-up records: loss 2 - step / 100 + seed / 100, a second per step, a score of 0.7 and more.

    If the run was `resumed` within a step's record, a quarter of its second was timed.
    """
    settings = Settings("c", "m", str(folder), strategy=strategy, batch_size=8, seed=seed)
    info = RunInfo(replace(settings, **changes), "toy", "f" * 64, "d" * 64, 48, 60, {"device": "cpu"})
    run = Folder.make(folder)
    write_settings(run, info)
    metrics, timing = [], []
    for step in range(1, steps + 1):
        position = {"kind": "step", "step": step, "epoch": 1}
        loss = None if step == 30 else 2 - step / 100 + seed / 100
        tokens = {"rows": 8, "real_tokens": 100, "padded_tokens": 120}
        metrics.append({**position, "loss": loss, "learning_rate": 1e-4, "grad_norm": 1.0, **tokens})
        seconds = 0.25 if step == resumed else 1.0
        timing.append({**position, "seconds": seconds, "tokens_per_second": 100.0, "peak_memory_bytes": None})
    if steps:
        metrics.append(
            {"kind": "eval", "epoch": 1, "step": steps, "split": split, "rows": 9, "loss": 1.0, score: 0.7 + seed / 100}
        )
        timing.append({"kind": "epoch", "epoch": 1, "step": steps, "seconds": float(steps), "eval_seconds": 1.0})
    written = {}
    for name, records in ((METRICS, metrics), (TIMING, timing)):
        file = Records(run, name, None, print)
        for record in records:
            file.add(record)
        written[name] = file.sync()
        file.close()
    write_summary(run, Summary({}, written))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = [write_run(folder / f"smart-{seed}", seed) for seed in (1, 2, 3)]
    return [*made, write_run(folder / "fixed-1", 1, "fixed")]


@pytest.fixture(scope="module")
def page(runs):
    """The page of `runs`."""
    return comparison_page(group_runs([read_curves(folder) for folder in runs]))


def test_runs_that_differ_only_by_seed_are_one_group(runs) -> None:
    groups = group_runs([read_curves(folder) for folder in runs])
    assert [(group.name, len(group.runs)) for group in groups] == [("smart", 3), ("fixed", 1)]
    assert groups[0].stack("real_tokens")[0, -1] == 6000
    assert groups[0].stack("seconds")[0].tolist() == list(range(1, 61))


def test_the_terminal_shows_the_means_of_runs_that_differ_only_by_seed(runs) -> None:
    """Below the table of runs, where there are such runs; in JSON too."""
    results = [read_result(folder) for folder in runs]
    table, note, means = comparison(results).split("\n\n")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [str(folder) for folder in runs]
    assert note == "Means of runs that differ only by seed, ± their standard deviation:"
    rows = [[cell.strip().replace("\u00a0", " ") for cell in line.split("|")[1:-1]] for line in means.splitlines()]
    assert rows[0] == ["runs", *(cell.strip() for cell in table.splitlines()[0].split("|")[2:-1])]
    assert [(row[0], row[5]) for row in rows[2:]] == [("smart, 3 runs", "0.7200 ± 0.0100"), ("fixed, 1 run", "0.7100")]
    assert comparison([results[0], results[-1]]).count("\n\n") == 0
    smart, fixed = groups_to_json(results)
    folders = [str(result.folder) for result in results if result.info.settings.strategy == "smart"]
    assert (smart["name"], smart["runs"], smart["score"]) == ("smart", folders, "accuracy")
    assert (smart["mean"], smart["standard_deviation"]) == (pytest.approx(0.72), pytest.approx(0.01))
    assert (fixed["mean"], fixed["standard_deviation"]) == (0.71, None)


def test_a_resumed_run_has_the_time_of_all_its_steps(tmp_path) -> None:
    """Also of those between the last record and the stop, whose seconds no record has."""
    curves = read_curves(write_run(tmp_path / "resumed", 1, resumed=20))
    assert curves.seconds.tolist() == list(range(1, 61))


def test_settings_that_differ_name_the_groups(tmp_path) -> None:
    folders = [write_run(tmp_path / str(lr), 1, lr=lr) for lr in (1e-4, 2e-4)]
    assert [group.name for group in group_runs([read_curves(folder) for folder in folders])] == [
        "lr 0.0001",
        "lr 0.0002",
    ]


def test_the_comparison_shows_means_and_standard_deviations(page) -> None:
    """Accuracies 0.71, 0.72, 0.73 are 0.7200 ± 0.0100; a loss that was not finite leaves a gap, not a broken page."""
    text = check_page(page).text
    assert "smart, 3 runs smart m 8 48 0.7200 ± 0.0100 cpu" in text
    assert "fixed, 1 run fixed m 8 48 0.7100 cpu" in text
    assert "reaches accuracy 0.720 ± 0.010 in 0:01:00" in text
    for heading in (
        "Loss against steps",
        "Loss against real tokens",
        "Loss against time",
        "Accuracy",
        "Throughput",
        "Learning",
    ):
        assert heading in text


def test_runs_without_accuracy_show_their_task_s_score(tmp_path) -> None:
    """In title, curves and table, under one heading for all; each score has a panel of its own."""
    folders = [write_run(tmp_path / f"a-{seed}", seed, score="perplexity", task="mlm") for seed in (1, 2)]
    curves = [read_curves(folder) for folder in folders]
    page = check_page(comparison_page(group_runs(curves)))
    assert "reaches perplexity 0.715 ± 0.007" in page.text
    assert "Perplexity against time" in page.text
    assert "Accuracy" not in page.text
    assert "smart, 2 runs smart m 8 48 perplexity 0.7150 ± 0.0071 cpu" in page.text
    others = {"f1_micro": "multi-label", "accuracy": "classification"}
    folders = [write_run(tmp_path / score, 1, score=score, task=task) for score, task in others.items()]
    page = check_page(comparison_page(group_runs([*curves, *map(read_curves, folders)])))
    for heading in ("Perplexity against time", "Micro F1 against time", "Accuracy against time"):
        assert heading in page.text
    assert "micro F1 0.7100" in page.text


def test_a_score_of_another_split_than_test_says_so(tmp_path) -> None:
    tested, validated = (read_result(write_run(tmp_path / split, 1, split=split)) for split in ("test", "validation"))
    assert "| 0.7100 " in comparison([tested])
    assert "| 0.7100 on validation " in comparison([validated])
    assert to_json(validated)["split"] == "validation"


def test_the_page_s_table_has_the_columns_of_the_terminal_s(runs, page, tmp_path) -> None:
    """Named once; `score` for accuracy in both where a run has another. That run's curve is not drawn, for no loss of
    it is finite: all of its updates were skipped."""
    skipped = read_curves(write_run(tmp_path / "s", 1, score="spearman"))
    other = [replace(skipped, loss=np.full_like(skipped.loss, np.nan))]
    page_of_one = comparison_page(group_runs(other))
    check_page(page_of_one)
    drawn = ([read_curves(folder) for folder in runs], page, "accuracy"), (other, page_of_one, "score")
    for curves, shown, score in drawn:
        heads = re.findall(r"<th[^>]*>([^<]+)</th>", shown)
        table = comparison([run.result for run in curves]).splitlines()[0]
        assert heads == ["runs", *(name.strip() for name in table.strip("|").split("|")[1:])]
        assert heads[5] == score


def test_many_groups_are_drawn_and_a_run_of_one_step_and_their_names_are_shown_not_obeyed(tmp_path) -> None:
    models = ["<script>x", "$m$", *["m"] * 10]
    folders = [
        write_run(tmp_path / str(n), 1, lr=1e-5 * (n + 1), steps=1 + n, model=model) for n, model in enumerate(models)
    ]
    text = comparison_page(group_runs([read_curves(folder) for folder in folders]))
    assert "&lt;script&gt;" in text
    assert "$m$" in check_page(text).text


def test_a_run_of_one_record_is_a_dot_and_no_line_lies_on_the_frame(tmp_path) -> None:
    runs = [read_curves(write_run(tmp_path / str(steps), 1, lr=steps, steps=steps)) for steps in (1, 9)]
    axes = Figure().subplots()
    learning(group_runs(runs)).panels[0].draw(axes, LIGHT)
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]
    assert axes.get_ylim() == (0, pytest.approx(1.05 * 2))


def test_runs_without_a_step_are_refused(tmp_path) -> None:
    """Before the first log point there is nothing to draw; beside a run that has some, it is in the table alone."""
    empty = read_curves(write_run(tmp_path / "empty", 1, steps=0))
    with pytest.raises(InputError, match=r"no step is recorded yet in .*empty"):
        comparison_page(group_runs([empty]))
    runs = [(1, "fixed", 0), (1, "tight", 0), (2, "tight", 60)]
    begun = [read_curves(write_run(tmp_path / f"{way}-{seed}", seed, way, steps)) for seed, way, steps in runs]
    text = check_page(comparison_page(group_runs(begun))).text
    assert "fixed, 1 run" in text
    assert "tight, 2 runs" in text


def test_runs_with_records_of_other_steps_are_no_group(tmp_path) -> None:
    runs = [write_run(tmp_path / str(steps), steps, logging_steps=steps) for steps in (5, 10)]
    assert [group.name for group in group_runs([read_curves(run) for run in runs])] == [
        "logging steps 5",
        "logging steps 10",
    ]


def test_smoothing_leaves_out_what_is_not_finite() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0])
    assert smooth(values, 3).tolist() == [1, 2, 4, 4]
    assert smooth(values[:1], 9).tolist() == [1]


def test_compare_writes_the_page(runs, page, tmp_path) -> None:
    """`--html` writes the page and leaves the table on standard output as it is."""
    plain = CliRunner().invoke(cli, ["compare", *map(str, runs)])
    done = CliRunner().invoke(cli, ["compare", *map(str, runs), "--html", str(tmp_path / "runs.html")])
    assert (done.exception, done.stdout) == (None, plain.stdout)
    assert (tmp_path / "runs.html").read_text("utf-8") == page


@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_a_missing_library_is_named(runs, tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(cli, ["compare", *map(str, runs), "--html", str(tmp_path / "runs.html")])
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code == 2
    assert str(done.exception) == f"train compare --html needs {name}: pip install 'lengthwise[pictures]'"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1200, False), (1200, True)])
def test_the_comparison_fits_in_a_browser(page, tmp_path, width, dark) -> None:
    """In light and dark, on a phone and on a desk."""
    check_in_browser(page, tmp_path, width, dark)
