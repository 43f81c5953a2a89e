"""Counts and sizes in messages."""

import pytest

from cache.console.text import counted, sized


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "row", "0 rows"), (1, "row", "1 row"), (25_000, "row", "25,000 rows"), (1, "class", "1 class"),
     (2, "class", "2 classes"), (3, "batch", "3 batches"), (3, "epoch", "3 epochs")],
)  # fmt: skip
def test_one_is_one(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (7561, "7.6 kB"), (13_300_000, "13.3 MB"), (1.2e9, "1.2 GB"), (5e12, "5,000.0 GB")],
)
def test_a_size_has_the_unit_in_which_it_says_something(size: float, text: str) -> None:
    assert sized(size) == text
