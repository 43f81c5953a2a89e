"""How things are measured here: whole processes, workers that take turns, medians, tables, one JSON line a stage.

Peers run in processes of their own and take turns round by round (A B C A B C …), so that a machine that slows down
slows all of them. Every number shown is a median over rounds; a ratio is the median of the ratios within rounds.
This module imports nothing large: on Linux a child's peak memory starts at its parent's.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "benchmarks" / ".work"
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    *("torch", "transformers", "datasets", "tokenizers", "numpy", "pyarrow", "safetensors"),
    *("nanotoken", "accelerate", "mosaicml-streaming", "litdata"),
)

Json = dict[str, Any]


# --- whole processes


class FailedError(RuntimeError):
    """A measured process failed; its last output is the message."""


def measure(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> tuple[Json, str]:
    """Run a command to its end; returns what it and the children it waited for took, and what it printed.

    What they took: wall_s from start to exit, cpu_s of user and system, peak_bytes of the largest of them.

    Raises:
        FailedError: it exited with another code than 0.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=errors, cwd=ROOT, env=environment(env))
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise FailedError(f"{' '.join(map(str, command))}\n{errors.read()[-4000:]}")
        unit = 1 if sys.platform == "darwin" else 1024
        cpu_s, peak_bytes = used.ru_utime + used.ru_stime, used.ru_maxrss * unit
        return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak_bytes}, out.read()


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every measured process: nobody looks for the Hub, draws bars or compiles modules anew."""
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(WORK / "hf"),
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return {**os.environ, **quiet, **(more or {})}


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module of this folder."""
    return [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]


CALL = """
import importlib, json, sys
module, name, arguments = json.loads(sys.argv[1])
print(json.dumps(getattr(importlib.import_module(module), name)(*arguments), default=str))
"""


def calling(module: str, name: str, *arguments: object) -> list[str]:
    """The command that calls a function of a module of this folder and prints what it returns, as JSON; so are its
    arguments passed, paths as text."""
    return [sys.executable, "-c", CALL, json.dumps([f"benchmarks.{module}", name, arguments], default=str)]


def apart(module: str, name: str, *arguments: object) -> tuple[Json, Any]:
    """Call a function in a process of its own, see `calling`; what that took, see `measure`, and what it returned."""
    usage, out = measure(calling(module, name, *arguments))
    return usage, json.loads(out.splitlines()[-1])


# --- workers: processes that stay and take turns


class Worker:
    """A process that gets ready once and then measures on request; see `serve` for its side.

    Args:
        name: what the tables call it.
        command: what starts it.

    Raises:
        FailedError: on `ask`, if it died; with the last lines it printed.
    """

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the worker
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, cwd=ROOT,
            env=environment(env), text=True,
        )  # fmt: skip
        self.ready: Json = self._answer()

    def ask(self, **request: Any) -> Json:
        """Have it do one measurement; returns what it found."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def _answer(self) -> Json:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise FailedError(f"{self.name} exited with {self.process.returncode}\n{self.log.read()[-4000:]}")
        answer: Json = json.loads(line)
        return answer


def serve(handler: Callable[..., Json], ready: Json | None = None) -> None:
    """A worker's side: answer each request, a JSON object a line, until there are no more.

    Libraries that print would garble the answers, so whatever they print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: Json) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer(ready or {})
    for line in sys.stdin:
        answer(handler(**json.loads(line)))


def interleave(
    names: Sequence[str], rounds: int, once: Callable[[str], Json], say: Callable[[str], object] | None = None
) -> dict[str, list[Json]]:
    """Call `once` for every name in turn, `rounds` times over."""
    found: dict[str, list[Json]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names:
            if say:
                say(f"round {number + 1}/{rounds}: {name}")
            found[name].append(once(name))
    return found


def say(text: str) -> None:
    """A line about progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


# --- numbers


def median_of(samples: Sequence[Json], key: str) -> float:
    """The median of one number over rounds."""
    return statistics.median(float(sample[key]) for sample in samples)


def usage_of(samples: Sequence[Json]) -> Json:
    """The medians of what `measure` gives, the peak in MiB."""
    peak = median_of(samples, "peak_bytes") / 2**20
    return {"wall_s": median_of(samples, "wall_s"), "cpu_s": median_of(samples, "cpu_s"), "peak_mib": peak}


def ratio(samples: Mapping[str, Sequence[Json]], above: str, below: str, key: str) -> float:
    """The median over rounds of the ratio of one number of two peers, both taken in the same round."""
    pairs = zip(samples[above], samples[below], strict=True)
    return statistics.median(float(one[key]) / float(two[key]) for one, two in pairs)


# --- what is shown and kept


def machine() -> Json:
    """The machine, and the versions of everything that was measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _version(package: str) -> str:
    folders = [*sys.path, str(ROOT / ".peers")]
    return next((found.version for found in metadata.distributions(name=package, path=folders)), "")


def table(rows: Sequence[Json], columns: Mapping[str, str]) -> str:
    """A Markdown table. `columns` maps a key of the rows to its heading; numbers are right-aligned."""
    cells = [[_cell(row.get(key, "")) for key in columns] for row in rows]
    heads = list(columns.values())
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads))]
    numeric = [any(isinstance(row.get(key), int | float) for row in rows) for key in columns]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if n else v.ljust(w) for v, w, n in zip(values, widths, numeric, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 1) + ":" if n else "-" * (w + 2) for w, n in zip(widths, numeric, strict=True))
    return "\n".join([line(heads), f"|{rule}|", *map(line, cells)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        digits = 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 4
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)


def report(
    stage: str, title: str, rows: Sequence[Json], columns: Mapping[str, str], ratios: Json, settings: argparse.Namespace
) -> None:
    """Print a stage's table and its ratios for people, then one JSON line for machines, and keep that line.

    Full runs are kept in `results/`, from which the documented tables come; quick ones stay out of it.
    """
    date = datetime.now(UTC).isoformat(timespec="seconds")
    plain = {name: value for name, value in vars(settings).items() if not name.startswith("_")}
    record = {"stage": stage, "date": date, "settings": plain, "rows": list(rows), "ratios": ratios, **machine()}
    print(f"\n{title}\n\n{table(rows, columns)}\n")
    for name, value in ratios.items():
        print(f"{name}: {_cell(value)}")
    line = json.dumps(record, default=str)
    print(line, flush=True)
    folder = WORK / "results" if getattr(settings, "quick", False) else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{stage}.json").open("a") as file:
        file.write(line + "\n")


def arguments(description: str | None, **flags: Any) -> argparse.ArgumentParser:
    """A parser with --quick and --rounds; each further flag is given by its default."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds: minutes")
    parser.add_argument("--rounds", type=int, help="rounds that peers take turns in")
    for name, default in flags.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    return parser
