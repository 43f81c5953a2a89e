"""Tests of prep need no torch, which transformers would import: that takes seconds and makes each fork slower."""

import sys

import pytest

TORCHLESS = ("prep", "sharing")
"""The folders of tests that need no torch."""


@pytest.fixture(autouse=True, scope="session")
def without_torch(request: pytest.FixtureRequest) -> None:
    """Let transformers find no torch for as long as this process lives, unless other tests are to run here, too: those
    of the documents import it long after they were collected."""
    if "torch" in sys.modules or any(item.path.parent.name not in TORCHLESS for item in request.session.items):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        patch.setenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is none
        from transformers.utils import is_torch_available

        assert not is_torch_available()
