"""A build whose tasks run apart, in any order, makes the cache of a local build to the byte, and says the same."""

import gzip
import io
import json
import random
import re
import socket
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from cache import Cache, InputError, LengthwiseError, open_cache
from prep import build as building
from prep import build_cache
from prep.columns import parts
from prep.rows.on_ray import OnRay, Place, check_ray
from prep.sources.opening import open_source

from ..helpers.builds import build_toy
from ..helpers.commands import write, write_parquet
from ..helpers.files import content, without_time
from ..helpers.scattered import Scattered
from ..helpers.tokenizers import write_tokenizer

# Files that are parsed in this process are closed when their readers are forgotten.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
RANDOM = random.Random(0)
WORDS = [f"word{number}" for number in range(1, 30)]


def sentence(longest: int = 12) -> str:
    return " ".join(RANDOM.choices(WORDS, k=RANDOM.randint(1, longest)))


TEXTS = [sentence() for _ in range(60)]
LABELS = [RANDOM.choice(["x", "y", "z"]) for _ in TEXTS]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
TAGGED = [
    {"text": text.split(), "label": RANDOM.choices(["O", "B-A", "I-A", "B-C"], k=len(text.split()))} for text in TEXTS
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def csv(rows: list[dict[str, Any]], end: str = "\n") -> bytes:
    return end.join(["label,text", *(f"{row['label']},{row['text']}" for row in rows), ""]).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """In groups of seven rows."""
    data = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), data, row_group_size=7)
    return data.getvalue()


GAPS = [number % 5 == 2 or number in range(12, 36) for number in range(len(ROWS))]
"""Rows without text: among them a part that holds nothing else."""

FILES: dict[str, dict[str, bytes]] = {
    "jsonl": {"a.jsonl": jsonl(ROWS)},
    "jsonl without a last line end": {"a.jsonl": jsonl(ROWS).rstrip(b"\n")},
    "a list": {"a.json": json.dumps(ROWS).encode()},
    "objects on several lines": {"a.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()},
    "csv": {"a.csv": csv(ROWS, "\r\n")},
    "csv with quotes": {"a.csv": csv([*ROWS, {"text": '"word1\nword2, word3"', "label": "x"}])},
    "parquet": {"a.parquet": parquet(ROWS)},
    "packed files": {f"data/part-{n}.jsonl.gz": gzip.compress(jsonl(ROWS[n * 20 : n * 20 + 20])) for n in range(3)},
    "splits in several formats": {
        "data/train-0.jsonl": jsonl(ROWS[:25]),
        "data/train-1.jsonl": jsonl(ROWS[25:45]),
        "data/test.parquet": parquet(ROWS[45:]),
    },
    "text files": {
        f"texts/{'test' if number % 3 else 'train'}/{row['label']}/{number:03}.txt": row["text"].encode()
        for number, row in enumerate(ROWS)
    },
    "lines of text": {"notes.txt": "\n\n".join([*TEXTS[:30], "\ufeffword1", *TEXTS[30:]]).encode()},
    "pairs": {"a.jsonl": jsonl([{**row, "sentence2": sentence()} for row in ROWS])},
    "numbers": {"a.jsonl": jsonl([{"text": text, "label": number / 8} for number, text in enumerate(TEXTS)])},
    "sets": {"a.jsonl": jsonl([{"text": text, "label": sorted({*text.split()[:2]})} for text in TEXTS])},
    "tagged words": {"a.jsonl": jsonl(TAGGED)},
    "rows with gaps": {
        "a.jsonl": jsonl([{**row, "text": None} if gap else row for row, gap in zip(ROWS, GAPS, strict=True)])
    },
    "a saved dataset": {},
}


def write_source(name: str) -> str:
    """Write the files of a source; what the command is given."""
    for path, data in FILES[name].items():
        write(path, data)
    if not FILES[name]:
        import datasets

        datasets.Dataset.from_list(ROWS).save_to_disk("saved", num_shards=3)
    return next(iter(FILES[name]), "saved").partition("/")[0]


CASES: list[tuple[str, dict[str, Any]]] = [
    ("jsonl", {}),
    ("jsonl", {"holdout": 0.25, "validation": 0.1}),
    ("jsonl", {"limit": 31}),
    ("jsonl", {"task": "mlm", "holdout": 0.2}),
    ("jsonl", {"memory_bytes": 1 << 14}),
    ("jsonl without a last line end", {}),
    ("a list", {}),
    ("csv", {"holdout": 0.1}),
    ("csv with quotes", {}),
    ("parquet", {"limit": 25, "holdout": 0.2}),
    ("packed files", {}),
    ("splits in several formats", {}),
    ("splits in several formats", {"limit": 20}),
    ("text files", {}),
    ("lines of text", {"task": "mlm", "holdout": 0.2}),
    ("rows with gaps", {"task": "mlm", "missing": "drop", "long_texts": "chunk", "max_length": 6, "holdout": 0.2}),
    ("pairs", {"holdout": 0.3}),
    ("numbers", {}),
    ("sets", {}),
    ("tagged words", {}),
    ("tagged words", {"holdout": 0.25}),
    ("rows with gaps", {"missing": "drop", "holdout": 0.2}),
    ("rows with gaps", {"missing": "drop"}),
    ("a saved dataset", {}),
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tokenizer."""
    monkeypatch.chdir(tmp_path)
    write_tokenizer(Path("tokenizer"))


def build(source: str, out: str, **settings: Any) -> Cache:
    return build_toy(source, Path(out), tokenizer="tokenizer", **settings).cache


def scattered(monkeypatch: pytest.MonkeyPatch, part_bytes: int, **ray: Any) -> Scattered:
    """From now on tasks run apart; returns the stand-in for Ray."""
    cluster = Scattered(**ray)
    monkeypatch.setattr(
        building,
        "_executor",
        lambda settings, folder, console: nullcontext(OnRay(cluster, part_bytes, Place.here(folder))),
    )
    return cluster


@pytest.mark.parametrize(
    ("source", "settings", "large"), [(*case, number % 2) for number, case in enumerate(CASES)], ids=str
)
def test_caches_are_byte_identical_in_any_partition(
    source: str, settings: dict[str, Any], large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn in parts of a few rows on one core and in larger ones on two."""
    name = write_source(source)
    settings = {"name": "a", "shard_bytes": 1000, "batch_size": 8, **settings}
    build(name, "local", **settings)
    expected = without_time(Path("local/caches/a"), "build")
    cluster = scattered(monkeypatch, (300, 1500)[large], seed=large, cores=large + 1)
    built = build(name, "apart", **settings)
    assert cluster.started > len(expected["manifest.json"]["splits"]), "its tasks ran there"
    assert without_time(built.folder, "build") == expected
    assert list(built.verify())


PARTS = {
    "jsonl": 10, "a list": 1, "objects on several lines": 1, "csv": 10, "csv with quotes": 1, "parquet": 9,
    "packed files": 3, "text files": 5, "a saved dataset": 3,
}  # fmt: skip
"""The least number of parts that a source is cut into; of 1 it is the number."""


@pytest.mark.parametrize("source", PARTS)
def test_parts_of_a_source_are_its_rows_in_order(source: str) -> None:
    stream = open_source(write_source(source), memory_bytes=1 << 28).splits["train"]
    rows = [row for batch in stream() for row in batch.to_pylist()]
    cut = parts(stream, 100)
    assert len(cut) >= PARTS[source] if PARTS[source] > 1 else len(cut) == 1
    found = [[row for batch in part() for row in batch.to_pylist()] for part in cut]
    assert [row for part in found for row in part] == rows
    assert all(found)


# --- what goes wrong

BROKEN: list[tuple[bytes, dict[str, Any]]] = [
    (jsonl([*ROWS[:37], {"text": None, "label": "x"}, *ROWS[37:]]), {}),
    (jsonl([*ROWS[:37], {"text": "word1", "label": None}, *ROWS[37:]]), {}),
    (jsonl([*ROWS[:37], {"text": "word1", "label": None}, *ROWS[37:]]), {"holdout": 0.2}),
    (jsonl([*ROWS[:37], {"text": "word1", "label": ""}, *ROWS[37:]]), {}),
    (jsonl([*ROWS[:3], {"text": " ", "label": "x"}, *ROWS[3:37], {"text": "word1", "label": 5}]), {"missing": "drop"}),
    (jsonl([*TAGGED[:30], {"text": ["word1"], "label": ["O", "O"]}, *TAGGED[30:]]), {}),
    (jsonl(ROWS[:40]) + b"{broken\n" + jsonl(ROWS[40:]), {}),
    (jsonl(ROWS[:40]) + b'{"text": "\xff", "label": "x"}\n', {}),
]


@pytest.mark.parametrize(("data", "settings"), BROKEN, ids=range(len(BROKEN)))
def test_errors_name_the_row_as_a_local_build_does(
    data: bytes, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.jsonl", data)
    with pytest.raises(InputError) as locally:
        build("a.jsonl", "local", **settings)
    for seed in range(2):
        scattered(monkeypatch, 400, seed=seed)
        with pytest.raises(InputError) as apart:
            build("a.jsonl", "apart", **settings)
        found, expected = (re.sub(r" in row \d+", "", str(error.value)) for error in (apart, locally))
        assert found == expected, "but for pyarrow's row, which it counts in the piece that it parses"


def test_a_part_that_is_lost_ends_the_build_and_the_cache_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.jsonl", jsonl(ROWS))
    build("a.jsonl", "")
    before = content(Path("caches"))
    for lost in (0, 5, 20):  # the last while shards are written
        cluster = scattered(monkeypatch, 400, lost=[lost])
        with pytest.raises(LengthwiseError, match=r"a task was lost, .*: the process died;") as error:
            build("a.jsonl", "", force=True, limit=50, shard_bytes=300)
        assert "--memory" in str(error.value)
        assert cluster.started < 80
        assert content(Path("caches")) == before
    assert list(open_cache("caches/a").verify())


def test_a_defect_is_not_taken_for_a_lost_task(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.jsonl", jsonl(ROWS))
    cluster = scattered(monkeypatch, 400)
    monkeypatch.setattr("prep.rows.encoding.check_tokens", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build("a.jsonl", "")
    assert cluster.cancelled, "nothing goes on that is of no use"


def test_a_fast_engine_that_is_wrong_sends_all_parts_to_tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    from prep.tokenization import parity

    write("a.jsonl", jsonl(ROWS))
    expected = without_time(build("a.jsonl", "local", engine="tokenizers").folder, "build")
    scattered(monkeypatch, 400)

    def differs(*_: Any) -> None:
        raise parity.ParityError("nanotoken and tokenizers disagree")

    monkeypatch.setattr(parity.ParityCheck, "compare", differs)
    built = build("a.jsonl", "apart", engine="nanotoken")
    assert without_time(built.folder, "build") == expected
    assert built.manifest.build["engine"] == "tokenizers"


def test_machines_must_have_the_same_version_folders_and_storage(tmp_path: Path) -> None:
    place = Place.here(tmp_path)
    place.take()
    for other, expected in (
        ({"version": "9.9"}, "expected 9.9; install the same on all machines"),
        (
            {"building": tmp_path / "elsewhere"},
            "needs --out, or LENGTHWISE_STORE where that is a URL, on storage that all machines share",
        ),
        ({"working": tmp_path / "elsewhere"}, "start prep build in a folder that all machines share"),
    ):
        with pytest.raises(InputError, match=expected):
            Place(**{**vars(place), **other}).take()


def test_data_in_memory_is_not_for_other_machines() -> None:
    with pytest.raises(InputError, match="--executor ray reads files that all machines see, but the data given is in"):
        build_cache(["word1"], ["x"], name="a", tokenizer="tokenizer", executor="ray")
    with pytest.raises(InputError, match="--executor 'slurm' is not one of local, ray"):
        build_cache("a.csv", executor="slurm")


def test_a_cluster_that_is_not_there_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.jsonl", jsonl(ROWS))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(InputError, match=f"no Ray cluster answers at RAY_ADDRESS={address}: .*; start one"):
            build("a.jsonl", "", executor="ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    check_ray()


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet("a.parquet", text=["word1", "word2"], label=["x", "y"])
    monkeypatch.setattr("prep.rows.on_ray.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs Ray, which is not installed; next: pip install 'lengthwise\[ray\]'"):
        build("a.parquet", "", executor="ray")


def test_a_cluster_that_refuses_a_connection_is_an_error_with_rays_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.jsonl", jsonl(ROWS))

    def init(**_: Any) -> None:
        raise ConnectionError("InvalidAuthToken: Authentication token is missing or incorrect.\nmore")

    errors = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
    ray = SimpleNamespace(is_initialized=bool, init=init, exceptions=errors, __spec__=ModuleSpec("ray", None))
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    expected = "RAY_ADDRESS=auto cannot be used: InvalidAuthToken: .*incorrect.; .*, and set RAY_AUTH_MODE=token"
    with pytest.raises(InputError, match=expected):
        build("a.jsonl", "", executor="ray")
