"""Build the wheel and run both commands from it, in a folder whose files could be mistaken for our packages.

A user may well have a `train.py`, a `prep.py` and a `cache/` folder of data. The wheel is installed into a folder of
its own and put before everything else on the path, so that nothing of the checkout is imported.

    python tests/check_wheel.py
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("cache", "prep", "train")
DECOY = "raise SystemExit('a decoy was imported')\n"


def main() -> None:
    """Build, look inside, install, run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        check_content(wheel)
        site = folder / "site"
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], folder)
        work = folder / "work"
        make_decoys(work)
        prep, train = (str(site / "bin" / name) for name in ("prep", "train"))
        code = "import cache, prep, train; print(cache.__file__, prep.__file__, train.__file__)"
        places = run([sys.executable, "-P", "-c", code], work, site).split()
        assert all(Path(place).is_relative_to(site) for place in places), places
        run([prep, "build", "reviews.csv", "--tokenizer", "minilm", "--holdout", "0.2"], work, site)
        assert (work / "cache/reviews/manifest.json").is_file()
        run([prep, "verify", "cache/reviews"], work, site)
        assert "--cache" in run([train, "run", "--help"], work, site)
        output = run([train, "run", "--cache", "cache/missing"], work, site, expect=2)
        assert "it is not a cache" in output, output
    print("wheel: both commands run from it, decoys untouched")


def build_wheel(folder: Path) -> Path:
    """The wheel, built from the source distribution, as an index would."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(ROOT)], folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """Every module and template of the checkout, and nothing else: no data."""
    found = (path for room in ROOMS for ending in ("py", "html") for path in (ROOT / room).rglob(f"*.{ending}"))
    modules = {str(path.relative_to(ROOT)) for path in found}

    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    for name in names:
        assert name in modules or name in {f"{room}/py.typed" for room in ROOMS}, name
    assert modules <= set(names), modules - set(names)


def make_decoys(work: Path) -> None:
    """A user's folder: scripts with our names, a data folder, a small corpus."""
    (work / "cache" / "data").mkdir(parents=True)
    (work / "cache" / "data" / "notes.txt").write_text("not a cache\n")
    for name in ("train.py", "prep.py", "cache.py", "cli.py"):
        (work / name).write_text(DECOY)
    rows = [f"a {'good' if number % 2 else 'bad'} film number {number},{number % 2}\n" for number in range(40)]
    (work / "reviews.csv").write_text("text,label\n" + "".join(rows))


def run(arguments: list[str], folder: Path, site: Path | None = None, expect: int = 0) -> str:
    """Run a command with the installed wheel first on the path; an error if it exits otherwise than expected."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if site:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{arguments} exited {done.returncode}:\n{output}"
    return output


if __name__ == "__main__":
    main()
