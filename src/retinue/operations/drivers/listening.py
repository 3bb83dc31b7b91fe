"""Reading what a command-line agent writes: lines of JSON, each bounded, whatever it writes between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_LONGEST = 4 << 20
_SHOWN = 2_000
_VALUE = 200


class Lines:
    """Cuts a stream of bytes into lines. A line over the limit is left out, and never held in memory."""

    def __init__(self, longest: int = _LONGEST) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._skipping = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take a piece; return the lines that it completes, without their ends."""
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            if not self._skipping and len(self._rest) + len(piece) <= self._longest:
                yield bytes(self._rest + piece)
            self._rest.clear()
            self._skipping = False
        if self._skipping or len(self._rest) + len(rest) > self._longest:
            self._skipping = True
            self._rest.clear()
        else:
            self._rest += rest


def as_object(line: bytes) -> dict[str, Any] | None:
    """Read a line as a JSON object; None: it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def inner(found: object, *names: str) -> Any:
    """Follow names into nested objects; None where there is nothing."""
    for name in names:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


def shortened(text: str, length: int = _SHOWN) -> str:
    """Return a text of at most so many characters, with a sign that something is left out."""
    return text if len(text) <= length else text[: length - 1] + "…"


def call_line(tool: object, arguments: object) -> str:
    """Return one line about a tool that is used: its name, and what tells the call from others."""
    told = arguments if isinstance(arguments, dict) else {}
    used = shortened(" ".join(str(tool).split()), _VALUE + 100)
    for name in ("file_path", "absolute_path", "path", "dir_path", "command", "pattern", "query", "description"):
        if isinstance(told.get(name), str):
            return f"{used} {shortened(' '.join(told[name].split()), _VALUE)}\n"
    return f"{used}\n"
