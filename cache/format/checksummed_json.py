"""JSON files that end with their own checksum, and typed, bounded access to their fields.

The layout is canonical and the last field is the sha256 of everything else, so that a single flipped byte is noticed
when the file is read. With a fitting checksum it may still be a stranger's: every field is checked.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CorruptCacheError, FormatVersionError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a cache, split or file may be called: it becomes a name in a folder."""

MAX_COUNT = 1 << 48
"""Most rows, tokens or bytes that a file may claim."""

Json = dict[str, Any]


def seal(content: Json) -> bytes:
    """`content` as canonical JSON whose last field, `checksum`, is the sha256 of the rest."""
    checksum = hashlib.sha256(_layout(content).encode()).hexdigest()
    return _layout({**content, "checksum": checksum}).encode()


def unseal(data: bytes, path: Path, format_name: str, version: int) -> Json:
    """The content of a file that `seal` wrote, checked down to the byte.

    Raises:
        FormatVersionError: it is of another version of this format.
        CorruptCacheError: it does not parse, is another format, or its bytes differ from their checksum.
    """
    try:
        raw = parse_json(data)
    except (ValueError, RecursionError) as error:
        raise CorruptCacheError(f"{path}: does not parse as JSON ({error})") from None
    if not isinstance(raw, dict) or raw.get("format") != format_name:
        raise CorruptCacheError(f"{path}: not a {format_name} file")
    if type(raw.get("version")) is not int:
        raise CorruptCacheError(f"{path}: 'version' is {raw.get('version')!r:.80}, expected an integer")
    if raw["version"] != version:
        raise FormatVersionError(
            f"{path}: written in format version {raw['version']}, this release reads version {version}"
        )
    checksum = raw.pop("checksum", None)
    tail = _TAIL.search(data)
    if not tail or hashlib.sha256(data[: tail.start()] + b"\n}\n").hexdigest() != tail.group(1).decode():
        raise CorruptCacheError(
            f"{path}: its checksum {checksum!r:.80} does not fit its content; it was damaged or edited"
        )
    return raw


_TAIL = re.compile(rb',\n  "checksum": "([0-9a-f]{64})"\n}\n\Z')
"""The end that `seal` adds."""

MAX_DEPTH = 16
MAX_NESTED = 1 << 20
"""Most lists and objects in one file, which bounds the memory that parsing can take."""


def parse_json(data: bytes) -> Any:
    """Parse JSON of bounded depth and number of parts; no key twice in an object, no NaN, no half surrogate pair.

    Raises:
        ValueError, RecursionError: it is not.
    """
    if data.count(b"[") + data.count(b"{") > MAX_NESTED:
        raise ValueError("more lists and objects than a file of this kind has")
    raw = json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_reject)
    level = [raw]
    for _ in range(MAX_DEPTH):
        level = [part for item in level if isinstance(item, (dict, list)) for part in _parts(item)]
    if level:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if b"\\ud" in data.lower():  # half a surrogate pair can be neither printed nor written
        json.dumps(raw, ensure_ascii=False).encode()
    return raw


def _parts(item: Json | list[Any]) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item
    return [value for value in values if isinstance(value, (dict, list))]


def _layout(content: Json) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # Histograms on one line: a raw line break stands only between JSON tokens, never inside a string.
    return re.sub(r"\[\n\s+(\d[\d,\s]*)\n\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def unique_keys(pairs: list[tuple[str, Any]]) -> Json:
    """A hook for json.loads that refuses an object with a key twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


class Fields:
    """Typed, bounded access to the keys of one JSON object."""

    def __init__(self, raw: Json, path: Path) -> None:
        self.raw, self.path = raw, path

    def wrong(self, key: str, expected: str) -> CorruptCacheError:
        return CorruptCacheError(f"{self.path}: {key!r} is {self.raw.get(key)!r:.80}, expected {expected}")

    def check(self, key: str, expected: str, accept: Callable[[Any], bool]) -> Any:
        if key not in self.raw or not accept(self.raw[key]):
            raise self.wrong(key, expected)
        return self.raw[key]

    def integer(self, key: str, low: int, high: int) -> int:
        ok = self.check(key, f"an integer from {low} to {high}", lambda v: type(v) is int and low <= v <= high)
        return int(ok)

    def text(self, key: str) -> str:
        return str(self.check(key, "text", lambda v: isinstance(v, str)))

    def name(self, key: str) -> str:
        valid = self.check(key, "a plain name", lambda v: isinstance(v, str) and bool(NAME_PATTERN.fullmatch(v)))
        return str(valid)

    def digest(self, key: str) -> str:
        hexdigits = re.compile("[0-9a-f]{64}")
        return str(self.check(key, "a sha256", lambda v: isinstance(v, str) and bool(hexdigits.fullmatch(v))))

    def mapping(self, key: str) -> Json:
        return dict(self.check(key, "an object", lambda v: isinstance(v, dict)))

    def objects(self, key: str) -> list["Fields"]:
        items = self.check(key, "a list of objects", lambda v: isinstance(v, list) and _all(v, dict))
        return [Fields(item, self.path) for item in items]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self.check(key, "a list of texts", lambda v: isinstance(v, list) and _all(v, str)))


def _all(values: list[Any], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)
