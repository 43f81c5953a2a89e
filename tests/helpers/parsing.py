"""Reading files in the tests' process, where what is shown is not that a child reads them."""

import pytest

IN_THIS_PROCESS = [
    pytest.mark.usefixtures("parsed_here"),
    # Files that are parsed here are closed when their readers are forgotten.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""Marks of a file of tests: its many small builds read their sources without a fork for each."""
