# ruff: noqa: F401, F811  # fixtures of the tests of sharing
"""Ranks that train on a cache at a URL."""

from pathlib import Path

import pytest

from cache import Cache
from cache.common.folder import Folder
from cache.console.progress import ConsoleProgress
from train.run_folder.folder import read_run

from ..helpers.models import write_model
from ..helpers.object_server import ObjectServer
from ..helpers.ranks import errors_of, run_ranks
from ..sharing.conftest import QUIET, SECRET, URL, contents, s3, small, store, written


@pytest.mark.slow
def test_ranks_train_from_a_url_with_one_download_and_keep_no_secret(
    small: Cache, s3: ObjectServer, store: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "model", vocab_size=small.manifest.tokenizer.vocab_size)
    small.push(URL, progress=QUIET)
    options = ["--model", str(tmp_path / "model"), "--max-steps", "2", "--batch-size", "4", "--out", "run"]
    codes = run_ranks(tmp_path, 2, "run", "--cache", URL, *options)
    assert codes == [0, 0], errors_of(tmp_path, 2)
    assert all(s3.count("HEAD", str(name)) == 1 for name in contents(small.folder) if "shard" in name)
    with Folder.open(tmp_path / "run") as run:
        assert read_run(run).settings.cache == URL
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
