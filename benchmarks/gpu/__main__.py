"""The benchmark of a machine with a GPU: correctness, feed, attention, training beside the Trainer, memory, profile.

    python -m benchmarks.gpu                                  # all stages, on the accelerator that torch finds
    python -m benchmarks.gpu --stage training,profile         # some
    python -m benchmarks.gpu --device cpu --quick             # tiny shapes, to see that it works

Each case is written as it ends, one JSON line, and the page of tables follows; a stage begins no case after its minutes
are over, and the same command goes on where the last one stopped. Models have random weights, and rows are the 25,000
reviews, or those of --cache: nothing is downloaded.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ..timing import RESULTS, ROOT, WORK, FailedError, Json, Worker, environment, machine, measure, python, say
from .cases import cases_of
from .page import TITLES, page

STAGES = tuple(TITLES)
FIND = "import torch; found = torch.accelerator.current_accelerator(check_available=True); print(found or '')"
TESTS = re.compile(r"^@pytest\.mark\.cuda", re.MULTILINE)


def main() -> None:
    settings = parser().parse_args()
    stages = settings.stage.split(",")
    unknown = [name for name in stages if name not in STAGES]
    if unknown:
        raise SystemExit(f"--stage {settings.stage}: no stage {unknown[0]!r}, expected some of {','.join(STAGES)}")
    device = settings.device or measure([sys.executable, "-c", FIND])[1].strip()
    if not device:
        raise SystemExit(
            "torch finds no accelerator on this machine, expected a GPU; to run the same measurements on the CPU, "
            "to see that they work: python -m benchmarks.gpu --device cpu --quick"
        )
    folder = WORK / "results" if settings.quick else RESULTS
    results = Results(Path(settings.out) if settings.out else folder / "gpu.jsonl")
    place = {"device": device, "quick": settings.quick, "cache": settings.cache}
    workers = Workers(place)
    try:
        for stage in stages:
            end = time.monotonic() + 60 * settings.minutes
            if stage == "correctness":
                correctness(results, workers, settings.quick)
            else:
                measure_stage(stage, results, workers, settings.quick, end)
    finally:
        workers.close()
        print(results.write_page())


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stage", default=",".join(STAGES), help="some of %(default)s, with commas between")
    parser.add_argument("--device", default="", help="where to compute; default: the accelerator that torch finds")
    parser.add_argument("--quick", action="store_true", help="tiny shapes and few steps, to see that it works")
    parser.add_argument("--minutes", type=float, default=5.0, help="after which a stage begins no further case")
    parser.add_argument("--cache", default="", help="folder of a cache with classes; default: the 25,000 reviews")
    parser.add_argument("--out", default="", help="file of JSON lines; default: benchmarks/results/gpu.jsonl")
    return parser


class Results:
    """The results so far, in a file that grows case by case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.records: list[Json] = [json.loads(line) for line in lines]

    def holds(self, stage: str, what: str, case: Json, device_name: str) -> bool:
        """Whether a case was measured on such a device."""
        wanted = (stage, what, case, device_name)
        return any((r["stage"], r["what"], r["case"], r["device_name"]) == wanted for r in self.records)

    def add(self, stage: str, what: str, case: Json, result: Json, device_name: str) -> None:
        """Write a result."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"stage": stage, "what": what, "case": case, "result": result, "device_name": device_name}
        record = {**record, "date": date, **machine()}
        self.records.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_page(self) -> Path:
        """Write the page beside the file; returns its path."""
        path = self.path.with_suffix(".md")
        path.write_text(page(self.records) if self.records else "")
        return path


class Workers:
    """A process that measures, started where it is needed and again where it died."""

    def __init__(self, place: Json) -> None:
        self.place = place
        self.worker: Worker | None = None

    def get(self) -> Worker:
        """The process."""
        if self.worker is None:
            say(f"starting on {self.place['device']}")
            self.worker = Worker("worker", python("gpu.worker", json.dumps(self.place)))
        return self.worker

    def device_name(self) -> str:
        """The device's name."""
        return str(self.get().ready["device_name"])

    def close(self) -> None:
        """End the process."""
        if self.worker is not None:
            self.worker.close()
        self.worker = None


def measure_stage(stage: str, results: Results, workers: Workers, quick: bool, end: float) -> None:
    """Measure the cases of a stage that have no result yet; one that fails is left out, with its error."""
    name = workers.device_name()
    todo = [(what, case) for what, case in cases_of(stage, quick) if not results.holds(stage, what, case, name)]
    for number, (what, case) in enumerate(todo):
        if time.monotonic() > end:
            say(f"{stage}: time is over, {len(todo) - number} cases are left; the same command goes on with them")
            return
        say(f"{stage} {number + 1}/{len(todo)}: {what} {json.dumps(case)}")
        try:
            result = workers.get().ask(what=what, case=case)
        except FailedError as error:
            say(f"failed: {error}")
            workers.worker = None
            continue
        results.add(stage, what, case, result, name)


def correctness(results: Results, workers: Workers, quick: bool) -> None:
    """The tests that need a CUDA device; without one they are skipped, which the summary says."""
    name = workers.device_name()
    if results.holds("correctness", "pytest", {}, name):
        return
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if TESTS.search(path.read_text())]
    say(f"correctness: {len(files)} files of tests")
    flags = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    command = [sys.executable, *flags, *map(str, files[: 1 if quick else None])]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    for line in failed:
        say(line)
    result = {"summary": lines[-1] if lines else done.stderr[-400:], "failed": failed, "returncode": done.returncode}
    results.add("correctness", "pytest", {}, result, name)


if __name__ == "__main__":
    main()
