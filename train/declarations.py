"""The declaration of a setting: a dataclass field with its type, default, help text and bounds, all in one place."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, get_args

LARGEST = 1 << 62
"""Numbers of settings lie between this and its negative."""


@dataclass(frozen=True)
class Declaration:
    """What a setting means and which values it takes.

    Attributes:
        name: of the field.
        kind: type of its values: bool, int, float or str.
        optional: whether None is allowed.
        default: its default; MISSING where it must be given.
        text: what it is, with its unit.
        default_text: the default in words, where the value alone does not say it.
        minimum, above, maximum, below: bounds of a number.
        choices: the texts allowed; empty where any is.
        folder: whether the text may name a folder, for shell completion.
        off: the flag that says no, where it is not --no-<name>.
        bare: the value of a flag given without one; None where the flag needs a value.
        metavar: what the help calls the value.
        free_on_resume: whether it may differ when a run is resumed, because it changes none of the run's numbers.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    text: str
    default_text: str = ""
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    folder: bool = False
    off: str | None = None
    bare: str | None = None
    metavar: str | None = None
    free_on_resume: bool = False

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return flag(self.name)

    @property
    def help(self) -> str:
        """Help text of the flag, with the default."""
        text = self.default_text
        if not text and self.default not in (MISSING, None):
            value = {True: "yes", False: "no"}[self.default] if self.kind is bool else self.default
            text = f"{value:g}" if self.kind is float else str(value)
        return f"{self.text}  [default: {text}]" if text else self.text

    @property
    def expected(self) -> str:
        """What its values must be, in words."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "one of " + ", ".join(self.choices) if self.choices else "a name"
        bounds = [
            f"above {self.above}" if self.above is not None else f"of {self.minimum} or more",
            *([f"at most {self.maximum}"] if self.maximum is not None else []),
            *([f"below {self.below}"] if self.below is not None else []),
        ]
        return f"{'an integer' if self.kind is int else 'a number'} {' and '.join(bounds)}"

    def refusal(self, value: object) -> str:
        """What to say of a value that is not allowed."""
        huge = isinstance(value, int | float) and not _in_range(value)
        shown = f"{value!r:.20}{'…' * (len(repr(value)) > 20)}" if huge else repr(value)
        return f"{self.flag} is {shown}, expected {self.expected}{', finite and below 2^62' * huge}"

    def accepts(self, value: object) -> bool:
        """Whether `value` is allowed."""
        if value is None:
            return self.optional
        if type(value) is not self.kind and not (self.kind is float and type(value) is int):
            return False
        if isinstance(value, str):
            return value != "" and (not self.choices or value in self.choices)
        return isinstance(value, bool) or self._within(value)

    def _within(self, number: Any) -> bool:
        return (
            _in_range(number)
            and (self.minimum is None or number >= self.minimum)
            and (self.above is None or number > self.above)
            and (self.maximum is None or number <= self.maximum)
            and (self.below is None or number < self.below)
        )


def setting(default: Any, text: str, **rule: Any) -> Any:
    """A field with a default, MISSING where it has none, its help text and other attributes of its `Declaration`."""
    return field(default=default, metadata={"text": text, **rule})


def _in_range(number: int | float) -> bool:
    return -LARGEST < number < LARGEST  # not a number is neither


def declarations(settings: type) -> Iterator[Declaration]:
    """The settings that a dataclass declares, in order."""
    for item in fields(settings):
        types = get_args(item.type) or (item.type,)
        yield Declaration(item.name, types[0], NoneType in types, item.default, **item.metadata)


def flag(name: str) -> str:
    """A setting's flag: `batch_size` is --batch-size."""
    return "--" + name.replace("_", "-")
