"""The settings of a plan. Loads without numpy, so that the commands can name the strategies in their help."""

from dataclasses import dataclass
from typing import Any

from ..errors import InputError

STRATEGIES = ("smart", "tight", "budget", "dynamic", "fixed")

_BY_STRATEGY: Any = ...


@dataclass(frozen=True)
class PlanSpec:
    """What determines a split's plans, one epoch after the other.

    Attributes:
        strategy: one of `STRATEGIES`; the README's table says what each does.
        batch_size: rows of one optimizer step, over all ranks and accumulation steps. None for `budget`. Where it is
            left out, 16 for the other strategies.
        max_tokens: most padded tokens (rows x width) of one batch. Only for `budget`.
        seed: seed of the plan's randomness, 0 or more.

    Raises:
        InputError: the settings contradict each other; all that is wrong is named at once.
    """

    strategy: str = "smart"
    batch_size: int | None = _BY_STRATEGY
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size is _BY_STRATEGY:
            object.__setattr__(self, "batch_size", None if self.strategy == "budget" else 16)
        wrong = []
        sizes = (("--batch-size", self.batch_size), ("--max-tokens", self.max_tokens))
        given = "".join(f"; {flag} is {value!r}" for flag, value in sizes if value is not None)
        if self.strategy not in STRATEGIES:
            wrong.append(f"--strategy {self.strategy!r} is not one of {', '.join(STRATEGIES)}")
        if self.strategy == "budget" and (self.batch_size is not None or not _positive(self.max_tokens)):
            wrong.append(f"--strategy budget takes --max-tokens, 1 or more, and no --batch-size{given}")
        if self.strategy != "budget" and (self.max_tokens is not None or not _positive(self.batch_size)):
            wrong.append(
                f"--strategy {self.strategy} takes --batch-size, 1 or more, and no --max-tokens, which goes with "
                f"--strategy budget{given}"
            )
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            wrong.append(f"the plan's seed {self.seed!r} is not an integer from 0 to {(1 << 63) - 1}")
        if wrong:
            raise InputError("; ".join(wrong))

    @classmethod
    def of(
        cls, strategy: str, batch_size: int | None = None, max_tokens: int | None = None, seed: int = 0
    ) -> "PlanSpec":
        """A spec in which a batch size of None was not given."""
        return cls(strategy, _BY_STRATEGY if batch_size is None else batch_size, max_tokens, seed)

    def of_strategy(self, strategy: str) -> "PlanSpec":
        """The settings of a strategy with this one's seed, and its batch size or budget where the strategy has one."""
        budget = strategy == "budget"
        return self.of(strategy, None if budget else self.batch_size, self.max_tokens if budget else None, self.seed)

    @property
    def id(self) -> str:
        """The plan's folder name, for example `smart-b16-s0` or `budget-t4096-s0`."""
        size = f"t{self.max_tokens}" if self.strategy == "budget" else f"b{self.batch_size}"
        return f"{self.strategy}-{size}-s{self.seed}"


def _positive(value: object) -> bool:
    return type(value) is int and 1 <= value < 1 << 31
