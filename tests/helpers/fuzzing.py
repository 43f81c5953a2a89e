"""A small coverage-guided fuzzer: inputs that reach new lines of `cache` become seeds of further inputs."""

import copy
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import cache

FOLDER = str(Path(cache.__file__).parent)
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 16, 255, 1 << 20, 1 << 31, 1 << 47, 1 << 63, -(1 << 63), 10**40, 0.5, 1e300),
    *("", "a", "../x", "/etc/passwd", "train", "tokenizer", "smart", "budget", "U16", "I64", "F64", "0" * 64, "é\0"),
    *([], {}, [[]], [0], [0, 8], {"a": 1}),
)
TOKENS = (
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-1",
    b"1e9",
    b"true",
    b"null",
    b"NaN",
    b"\\u0000",
    b"\xff",
    b"\\",
)


def mutated_json(rest: random.Random, content: Any) -> Any:
    """A copy with one to four parts replaced, removed, doubled or swapped."""
    content = copy.deepcopy(content)
    for _ in range(rest.randint(1, 4)):
        spot = content
        while isinstance(spot, (dict, list)) and spot:
            key = rest.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
            if isinstance(spot[key], (dict, list)) and spot[key] and rest.random() < 0.8:
                spot = spot[key]
                continue
            change_part(rest, spot, key)
            break
    return content


def change_part(rest: random.Random, spot: Any, key: Any) -> None:
    action = rest.randrange(5)
    if action == 0:
        del spot[key]
    elif action == 1 and type(spot[key]) is int:
        spot[key] += rest.choice((-1, 1, -8, 8, 1 << 40))
    elif action == 2 and isinstance(spot, list):
        spot.insert(rest.randint(0, len(spot)), copy.deepcopy(spot[key]))
    elif action == 3:
        other = rest.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
        spot[key], spot[other] = spot[other], spot[key]
    else:
        spot[key] = copy.deepcopy(rest.choice(ODD))


def mutated_bytes(rest: random.Random, data: bytes) -> bytes:
    """A copy with one to four runs of bytes flipped, removed, doubled or replaced."""
    raw = bytearray(data)
    for _ in range(rest.randint(1, 4)):
        begin = rest.randint(0, len(raw))
        end = min(len(raw), begin + rest.choice((0, 1, 1, 2, 8, 64)))
        action = rest.randrange(4)
        if action == 0 and begin < len(raw):
            raw[begin] ^= 1 << rest.randrange(8)
        elif action == 1:
            raw[begin:end] = b""
        elif action == 2:
            raw[begin:begin] = raw[begin:end]
        else:
            raw[begin:end] = rest.choice(TOKENS)
    return bytes(raw)


class Coverage:
    """The pairs of lines of `cache` that follow one another in the calls it watches."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int, int]] = set()

    def watch(self, call: Callable[[], None]) -> bool:
        """Make a call; whether it went where none went before. The call's error is passed on."""
        before, tracer = len(self.seen), sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        finally:
            sys.settrace(tracer)
        return len(self.seen) > before

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(FOLDER):
            return None
        last, seen = frame.f_lineno, self.seen

        def step(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            line = frame.f_lineno
            seen.add((name, last, line))
            last = line
            return step

        return step


def fuzz(
    seeds: list[Any],
    mutate: Callable[[random.Random, Any], Any],
    target: Callable[[Any], None],
    inputs: int,
    seed: int = 0,
) -> int:
    """Give `target` so many mutated inputs; returns how many different places of the code they reached.

    Raises:
        Exception: what `target` lets through, with the input as a note.
    """
    rest, coverage, corpus = random.Random(seed), Coverage(), list(seeds)
    for _ in range(inputs):
        # New finds are tried more often than old ones.
        tried = mutate(rest, corpus[-1 - min(int(rest.expovariate(0.1)), len(corpus) - 1)])
        try:
            if coverage.watch(lambda tried=tried: target(tried)):  # type: ignore[misc]
                corpus.append(tried)
        except Exception as error:
            error.add_note(f"input: {tried!r}")
            raise
    return len(coverage.seen)
