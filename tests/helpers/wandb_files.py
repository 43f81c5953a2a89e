"""What a .wandb file holds: a log in blocks of 32 KiB, as LevelDB writes it, of protocol buffers."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows that `run.log` wrote, without what wandb adds to them."""
    rows = []
    for record in _finished(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows.append({name: value for name, value in items.items() if not name.startswith("_")})
    return rows


def _finished(path: Path) -> list[Any]:
    """All records, when the last one is there: wandb's own process goes on writing after `run.finish`."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(600):
        records = [Record.FromString(data) for data in _records(path.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{path} was not finished within a minute")


def _records(content: bytes) -> Iterator[bytes]:
    place, parts = 7, b""
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        data = content[place + 7 : place + 7 + size]
        place += 7 + size
        parts = data if kind in (FULL, FIRST) else parts + data
        if kind in (FULL, LAST) and place <= len(content):
            yield parts
