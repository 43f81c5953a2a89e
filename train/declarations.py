"""The declaration of a setting: a dataclass field with its type, default, help text and bounds, all in one place."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from types import NoneType
from typing import Any, get_args

LARGEST = 1 << 62
"""Numbers of settings lie between this and its negative."""


@dataclass(frozen=True)
class Rule:
    """What a setting means and which values it takes.

    Attributes:
        help: what it is, with its unit.
        default_text: the default in words, where the value alone does not say it.
        minimum, above, maximum, below: bounds of a number.
        choices: the texts allowed; empty where any is.
        folder: whether the text may name a folder, for shell completion.
        off: the flag that says no, where it is not --no-<name>.
        bare: the value of a flag given without one; None where the flag needs a value.
        metavar: what the help calls the value.
        free_on_resume: whether it may differ when a run is resumed, because it changes none of the run's numbers.
    """

    help: str
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


def described(text: str, **rule: Any) -> dict[str, Rule]:
    """The metadata of a field that has no default."""
    return {"rule": Rule(text, **rule)}


def setting(default: Any, text: str, **rule: Any) -> Any:
    """A field with a default, its help text and the other attributes of its `Rule`."""
    return field(default=default, metadata=described(text, **rule))


@dataclass(frozen=True)
class Declaration:
    """A setting as it was declared.

    Attributes:
        name: of the field.
        kind: type of its values: bool, int, float or str.
        optional: whether None is allowed.
        default: its default; MISSING where it must be given.
        rule: the rest.
    """

    name: str
    kind: type
    optional: bool
    default: Any
    rule: Rule

    @property
    def flag(self) -> str:
        """Its flag on the command line."""
        return flag(self.name)

    @property
    def help(self) -> str:
        """Help text of the flag, with the default."""
        text = self.rule.default_text
        if not text and self.default not in (MISSING, None):
            value = {True: "yes", False: "no"}[self.default] if self.kind is bool else self.default
            text = f"{value:g}" if self.kind is float else str(value)
        return f"{self.rule.help}  [default: {text}]" if text else self.rule.help

    @property
    def expected(self) -> str:
        """What its values must be, in words."""
        rule = self.rule
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "one of " + ", ".join(rule.choices) if rule.choices else "a name"
        if self.kind is int:
            return f"an integer of {rule.minimum} or more"
        if rule.above is not None:
            return f"a number above {rule.above}" + (f" and below {rule.below}" if rule.below is not None else "")
        if rule.below is not None:
            return f"a number from {rule.minimum} to below {rule.below}"
        if rule.maximum is not None:
            return f"a number from {rule.minimum} to {rule.maximum}"
        return f"a number of {rule.minimum} or more"

    def refusal(self, value: object) -> str:
        """What to say of a value that is not allowed."""
        huge = isinstance(value, int | float) and not _in_range(value)
        shown = f"{value!r:.20}{'…' * (len(repr(value)) > 20)}" if huge else repr(value)
        return f"{self.flag} is {shown}, expected {self.expected}{', finite and below 2^62' * huge}"

    def accepts(self, value: object) -> bool:
        """Whether `value` is allowed."""
        rule = self.rule
        if value is None:
            return self.optional
        if self.kind is str:
            return isinstance(value, str) and value != "" and (not rule.choices or value in rule.choices)
        if self.kind is not float or isinstance(value, bool) or not isinstance(value, int | float):
            return type(value) is self.kind and (self.kind is bool or self._within(value))
        return self._within(value)

    def _within(self, number: Any) -> bool:
        rule = self.rule
        return (
            _in_range(number)
            and (rule.minimum is None or number >= rule.minimum)
            and (rule.above is None or number > rule.above)
            and (rule.maximum is None or number <= rule.maximum)
            and (rule.below is None or number < rule.below)
        )


def _in_range(number: int | float) -> bool:
    return -LARGEST < number < LARGEST  # not a number is neither


def declarations(settings: type) -> Iterator[Declaration]:
    """The settings that a dataclass declares, in order."""
    for item in fields(settings):
        types = get_args(item.type) or (item.type,)
        yield Declaration(item.name, types[0], NoneType in types, item.default, item.metadata["rule"])


def flag(name: str) -> str:
    """A setting's flag: `batch_size` is --batch-size."""
    return "--" + name.replace("_", "-")
