"""Tests of prep need no torch, which transformers would import: that takes seconds and makes each fork slower."""

import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def without_torch() -> None:
    """Let transformers find no torch for as long as this process lives, unless other tests have imported it."""
    if "torch" in sys.modules:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        patch.setenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is none
        from transformers.utils import is_torch_available

        assert not is_torch_available()
