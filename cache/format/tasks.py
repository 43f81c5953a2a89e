"""What the labels of a cache mean. Loads without numpy, so that the commands can name the tasks in their help."""

from dataclasses import dataclass

MLM = "mlm"
TOKENS = "token-classification"
KINDS = ("classification", "regression", "multi-label", TOKENS, MLM)
"""What a cache may be for; see `Task`."""
MAX_MULTI_LABELS = 4096
"""Most classes of a multi-label task, whose labels take a byte each in every row."""
MAX_TOKEN_LABELS = 1 << 15
"""Most classes of a token classification."""
IGNORED = -100
"""The label of tokens that have none: special tokens, all but the first of a word, padding. Losses pass over it."""


@dataclass(frozen=True)
class Task:
    """What the labels mean.

    Attributes:
        kind: "classification", one class per row; "regression", one number; "multi-label", any of the classes;
            "token-classification", one class per word, at its first token; "mlm", masked language modelling, which
            takes no labels.
        label_names: the classes, class 0 first; none for regression and for mlm.
        pair: whether a row holds two texts.
    """

    kind: str
    label_names: tuple[str, ...]
    pair: bool = False

    @property
    def labelled(self) -> bool:
        """Whether there are labels, of rows or of tokens."""
        return self.kind != MLM

    @property
    def per_token(self) -> bool:
        """Whether a row has a label for each token instead of one of its own."""
        return self.kind == TOKENS


CLASSIFICATION = Task("classification", ())
