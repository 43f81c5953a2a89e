"""Preparation: text to cache. The command `prep` is its front; it never imports torch.

    from prep import build_cache

    cache = build_cache(texts, labels, name="reviews")

Names are looked up when they are first used: `import prep` loads no numpy.
"""

from importlib import import_module

TYPE_CHECKING = False  # that of typing, which takes a while to import: Ctrl-C meanwhile would show a traceback
if TYPE_CHECKING:
    from .api import build_cache
    from .export import to_dataset

__all__ = ["build_cache", "to_dataset"]

_MODULES = {"build_cache": "api", "to_dataset": "export"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
