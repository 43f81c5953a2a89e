"""Source files made to crash their parser, to fill memory or to block: refused with a message, in bounded memory."""

import gzip
import json
import mmap
import os
import resource
import signal
import time
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from cache import InputError, open_cache
from cache.common import forked
from cache.common.forked import Forked
from prep.columns import Columns
from prep.sources import hub

from ..helpers.children import ended, spawn
from ..helpers.commands import GOOD, Prep, build, write, zipped
from ..helpers.python import run_python
from ..helpers.tokenizers import write_tokenizer

MIB = 1 << 20


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch, parsed_apart: None) -> None:
    monkeypatch.setattr(forked, "MIN_MEMORY", 32 * MIB)
    monkeypatch.setattr(forked, "HEADROOM", 160 * MIB)


def with_little_memory() -> None:
    """Lower the limits of this process, which tells its peak memory when it ends."""
    forked.MIN_MEMORY, forked.HEADROOM = 32 * MIB, 160 * MIB
    Finalize(None, lambda: Path("peak.txt").write_text(str(peak_memory())), exitpriority=0)
    Path("start.txt").write_text(str(peak_memory()))


def peak_memory() -> int:
    """KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def repeated(count: int, size: int) -> pa.Array:
    """So many texts of `size` bytes, all the same, as a dictionary of one."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["a" * size]))


def nested(depth: int) -> str:
    return write("a.jsonl", '{"text": "word1", "label": "x", "more": ' + "[" * depth + "]" * depth + "}\n")


def long_cell(name: str, before: str, after: str) -> str:
    return write(name, gzip.compress((before + "a" * (100 * MIB) + after).encode(), 1))


def parquet(text: pa.Array, **options: Any) -> str:
    labels = pa.array(["x"] * len(text))
    pyarrow.parquet.write_table(pa.table({"text": text, "label": labels}), "a.parquet", compression="zstd", **options)
    assert Path("a.parquet").stat().st_size < 50_000
    return "a.parquet"


def saved(text: pa.Array | None) -> str:
    """A folder as `save_to_disk` writes it; a pipe in place of its data where there is none."""
    write("d/state.json", json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    write("d/dataset_info.json", json.dumps({"features": {"text": {}, "label": {}}}))
    if text is None:
        os.mkfifo("d/data.arrow")
        return "d"
    batch = pa.record_batch({"text": text, "label": pa.array(["x"] * len(text))})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile("d/data.arrow", "wb") as file, pa.ipc.new_stream(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return "d"


def pipe(name: str) -> str:
    source = saved(None)
    Path("d", name).unlink()
    os.mkfifo(f"d/{name}")
    return source


MEMORY = "it takes more than 32 MiB of memory"
ROW = "a row is longer than 4,194,304 bytes"
ATTACKS: dict[str, tuple[Any, str]] = {
    "JSON nested 20,000 levels deep": (lambda: nested(20_000), "crashed (SIGSEGV)"),
    "a csv.gz with one cell of 100 MiB": (lambda: long_cell("a.csv.gz", 'text,label\n"', '",x\n'), ROW),
    "a csv.gz with a header of 100 MiB": (
        lambda: long_cell("a.csv.gz", "text,label,", "\n"),
        "Empty CSV file or block",
    ),
    "a jsonl.gz with one text of 100 MiB": (lambda: long_cell("a.jsonl.gz", '{"label": "x", "text": "', '"}\n'), ROW),
    "a jsonl.zst with one text of 100 MiB": (
        lambda: write("a.jsonl.zst", pa.compress(b'{"text": "' + b"a" * (100 * MIB), "zstd", asbytes=True)),
        ROW,
    ),
    "a zip with one cell of 100 MiB": (lambda: zipped("a.zip", {"a.csv": 'text,label\n"' + "a" * (100 * MIB)}), ROW),
    "a JSON list with one text of 100 MiB": (
        lambda: write("a.json", '[{"label": "x", "text": "' + "a" * (100 * MIB) + '"}]'),
        ROW,
    ),
    "a JSON list nested 20,000 levels deep": (
        lambda: write("a.json", '[{"text": ' + "[" * 20_000 + "]" * 20_000 + "}]"),
        "row 0 of its list (counted from 0): maximum recursion depth",
    ),
    "a txt.gz with one line of 100 MiB": (lambda: long_cell("a.txt.gz", "word1\n", "\n"), ROW, "--task", "mlm"),
    "a conll.gz with one word of 100 MiB": (lambda: long_cell("a.conll.gz", "a O\n", " O\n"), ROW),
    "a parquet dictionary of one long text": (lambda: parquet(repeated(4000, MIB)), MEMORY),
    "a parquet page that unpacks to 300 MiB": (
        lambda: parquet(pa.array(["a" * (300 * MIB)]), use_dictionary=False, write_statistics=False),
        MEMORY,
    ),
    "an Arrow dictionary of one long text": (lambda: saved(repeated(4000, MIB)), MEMORY),
    "an Arrow buffer that unpacks to 300 MiB": (lambda: saved(pa.array(["a" * (300 * MIB)])), MEMORY),
    "a pipe as a saved dataset's data": (lambda: saved(None), "it is a folder, pipe or device"),
    "a pipe as a saved dataset's state": (lambda: pipe("state.json"), "d holds neither table files"),
    "a text of 5 MiB": (lambda: (write("d/train/x/1.txt", "a" * 5 * MIB), "d")[1], "larger than 4,194,304 bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """In a process of its own: memory that this one has freed would count as free there."""
    make, message, *options = ATTACKS[attack]
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path / "tok")
    source = make()
    arguments = ("build", source, "--name", "a", "--tokenizer", "tok", "--memory", "1MiB", *options)
    code = ended(spawn(tmp_path, *arguments, command="prep", prepare=with_little_memory))
    assert (code, Path("out.txt").read_text()) == (2, "")
    said = Path("err.txt").read_text()
    assert message in said
    assert source in said
    assert int(Path("peak.txt").read_text()) - int(Path("start.txt").read_text()) < 100 * 1024, "KiB"
    assert not Path("cache/a").exists()


def test_a_sound_file_beside_them_is_built(prep: Prep) -> None:
    assert build(prep, write("a.csv", GOOD), "--memory", "1MiB").code == 0


def test_where_small_files_are_read_together_a_crash_names_them_and_an_error_one(prep: Prep) -> None:
    write("d/0.jsonl", [{"text": "word1", "label": "x"}])
    write("d/1.jsonl", [{"text": "word1", "label": "x"}, {"text": 5, "label": "x"}])
    assert "cannot read d/1.jsonl: JSON parse error: Column(/text)" in build(prep, "d").err
    Path(nested(20_000)).rename("d/1.jsonl")
    done = build(prep, "d")
    assert done.code == 2
    assert "cannot read d/0.jsonl to d/1.jsonl: the process that read it crashed (SIGSEGV)" in done.err


def test_a_pipe_in_a_saved_split_is_refused(prep: Prep) -> None:
    saved(None)
    Path("all").mkdir()
    Path("d").rename("all/train")
    write("all/dataset_dict.json", '{"splits": ["train"]}')
    Path("all/train/state.json").unlink()
    os.mkfifo("all/train/state.json")
    done = build(prep, "all")
    assert done.code == 2
    assert "cannot read all/train/state.json: it is a folder, pipe or device" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "mib", [160, 300, 600, *(pytest.param(mib, marks=pytest.mark.faults) for mib in (200, 250, 400, 500))]
)
def test_little_address_space_is_said(tmp_path: Path, mib: int) -> None:
    """Libraries in other languages abort where memory is short; none of them starts."""
    write(str(tmp_path / "a.csv"), GOOD)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({mib << 20},) * 2)"
    code = f"{limit}; from prep.cli import main; main()"
    done = run_python(code, "build", "a.csv", "--tokenizer", "minilm", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert f"{mib} MiB of address space, expected 1,024 MiB" in done.stderr or "not enough memory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argument", ["~nosuchuser/a.csv", os.fsdecode(b"\xff.csv")])
def test_a_source_that_cannot_be_named_is_refused(prep: Prep, argument: str) -> None:
    done = build(prep, argument)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")


def test_names_that_are_not_text_are_stored_escaped(prep: Prep) -> None:
    """Of a file beside others, of a tokenizer's folder, of the folder of caches."""
    odd = os.fsdecode(b"\xff")
    try:
        Path(odd).mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    write_tokenizer(Path("tok")).rename(Path(odd, "tok"))
    write(f"d/train.{odd}.csv", GOOD)
    done = build(prep, "d", "--tokenizer", f"{odd}/tok", "--out", f"{odd}/caches")
    assert (done.code, done.err) == (0, "")
    manifest = open_cache(Path(odd, "caches/a")).manifest
    assert manifest.tokenizer.name == "\\xff/tok"
    assert manifest.source["files"][0]["file"] == "train.\\xff.csv"


# --- the process that reads


def children() -> set[int]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(map(int, task.read_text().split()))


def endless() -> Any:
    while True:
        yield pa.record_batch({"text": ["a"]})


def test_a_stream_that_is_left_ends_its_process() -> None:
    before = children()
    stream = Forked(0).stream(Path("a"), endless)
    assert next(stream).num_rows == 1
    assert len(children() - before) == 1
    del stream
    assert children() == before


def test_it_ends_when_its_parent_is_killed() -> None:
    reading, writing = os.pipe()
    parent = os.fork()
    if not parent:
        stream = Forked(0).stream(Path("a"), endless)
        next(stream)
        os.write(writing, str(*children()).encode())
        time.sleep(60)
    child = int(os.read(reading, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    for _ in range(500):
        if not Path(f"/proc/{child}").exists() or "\nState:\tZ" in Path(f"/proc/{child}/status").read_text():
            return
        time.sleep(0.01)
    raise AssertionError("still there after five seconds")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_fork_is_answered_after_it(number: signal.Signals) -> None:
    """Python would print what the handler raises there, and go on."""
    before = children()
    with pytest.MonkeyPatch.context() as patch:
        fork = os.fork
        patch.setattr(os, "fork", lambda: (signal.raise_signal(number), fork())[1])
        handler = signal.signal(number, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(Forked(0).stream(Path("a"), endless))
        finally:
            signal.signal(number, handler)
    assert children() == before


def test_errors_arrive_as_they_were_raised() -> None:
    def wrong(kind: type[Exception]) -> None:
        raise kind("why")

    with pytest.raises(InputError, match=r"^why$"):
        Forked(0).call(Path("a"), wrong, InputError)
    with pytest.raises(RuntimeError, match="KeyError: 'why'"):
        Forked(0).call(Path("a"), wrong, KeyError)
    with pytest.raises(InputError, match=r"crashed \(SIGKILL\)"):
        Forked(0).call(Path("a"), lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_addresses_that_arrow_reserves_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default pool reserves a gigabyte of addresses as a batch's second part is packed."""
    monkeypatch.setattr(forked, "BATCH_ROWS", 1)

    def large() -> Any:
        yield pa.record_batch({"text": ["a", "b"]})
        held = mmap.mmap(-1, 700 * MIB)  # never touched: addresses alone
        yield pa.record_batch({"text": [str(len(held))]})

    [*_, last] = Forked(1024 * MIB).stream(Path("a"), large)
    assert last["text"].to_pylist() == [str(700 * MIB)]


def test_a_batch_too_large_to_be_packed_is_refused() -> None:
    def large() -> Any:
        batch = pa.record_batch({"text": ["a" * (60 * MIB)]})
        held = []
        with pytest.raises(MemoryError):
            while True:
                held.append(bytearray(8 * MIB))
        yield batch

    with pytest.raises(InputError, match="takes more than 32 MiB of memory"):
        next(Forked(0).stream(Path("a"), large))


# --- the Hub


def test_a_hub_out_of_reach_changes_nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next call, with the network back, asks the Hub again."""
    import datasets
    import huggingface_hub

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    before, bars = dict(os.environ), datasets.are_progress_bars_disabled()
    with pytest.raises(InputError, match="cannot load the dataset 'owner/none' from the Hugging Face Hub"):
        hub.open_hub("owner/none", Columns(), Forked(0))
    assert dict(os.environ) == before
    assert datasets.are_progress_bars_disabled() == bars
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
