"""The tokens of some rows, each marked as a special token, a word or a piece of a word, for the report."""

from dataclasses import dataclass

from cache import Split

from .samples import label_text, random_rows

SAMPLES = 4
MOST_TOKENS = 90
"""Most tokens shown of a row: its first ones and its last."""
SEED = 0
"""Of the choice of rows; the same cache gives the same page."""


@dataclass(frozen=True)
class Token:
    """One token as it is shown: `kind` is "special", "word", or "sub" for a piece that continues a word."""

    text: str
    kind: str


@dataclass(frozen=True)
class MarkedRow:
    """A row's first tokens, how many were left out before the last, and the last; its numbers and label."""

    about: str
    label: str
    head: tuple[Token, ...]
    left_out: int
    tail: tuple[Token, ...]


def marked_rows(split: Split) -> list[MarkedRow]:
    """Some random rows, the same each time, as marked tokens."""
    rows = []
    tokenizer, chosen = random_rows(split, SAMPLES, SEED)
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for row_number, row in chosen:
        ids = row.input_ids.tolist()
        names = [tokenizer.id_to_token(number) or f"<{number}>" for number in ids]
        marks = _marks(names, [number in special for number in ids])
        byte_level = any(name.startswith("Ġ") for name in names)
        tokens = [Token(_shown(name, byte_level), kind) for name, kind in zip(names, marks, strict=True)]
        cut = len(tokens) > MOST_TOKENS + 10
        rows.append(
            MarkedRow(
                about=f"row {row_number:,}, source row {row.source_row:,}, {len(ids):,} tokens",
                label="" if split.task.per_token else label_text(row.label, split.task.label_names),
                head=tuple(tokens[: MOST_TOKENS - 1] if cut else tokens),
                left_out=len(tokens) - MOST_TOKENS if cut else 0,
                tail=tuple(tokens[-1:] if cut else ()),
            )
        )
    return rows


WORD_STARTS = ("Ġ", "▁")
"""What byte-level and SentencePiece vocabularies put before a word's first piece; WordPiece marks the others, by ##."""


def _marks(names: list[str], special: list[bool]) -> list[str]:
    """The kind of each token."""
    by_start = any(name.startswith(WORD_STARTS) for name in names)
    kinds, after_special = [], True
    for name, is_special in zip(names, special, strict=True):
        goes_on = by_start and not after_special and not name.startswith((*WORD_STARTS, "Ċ"))
        kinds.append("special" if is_special else "sub" if goes_on or name.startswith("##") else "word")
        after_special = is_special
    return kinds


def _shown(name: str, byte_level: bool) -> str:
    """A token's text, without the mark of a word's start; of byte-level vocabularies decoded where it is whole."""
    from tokenizers.decoders import ByteLevel

    text = name[1:] if name.startswith(WORD_STARTS) and len(name) > 1 else name
    decoded = ByteLevel().decode([text]) if byte_level else text
    return text if "\ufffd" in decoded else decoded
