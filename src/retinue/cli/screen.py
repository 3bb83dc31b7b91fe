"""What a command prints: results on standard output, as JSON or for a person; messages on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

Json = dict[str, Any]
Column = tuple[str, str | Callable[[Json], str]]
"""A heading, and the member of the item to show or a function that makes the text."""

# Text from a model or a file may hold terminal escapes and direction marks; they are shown, never obeyed.
_CONTROLS = [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_VISIBLE = {code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" for code in _CONTROLS}
_WIDE = 200


def plain(text: object) -> str:
    """Return text that a terminal shows as it is: control characters but line end and tab are made visible."""
    return str(text).replace("\r\n", "\n").translate(_VISIBLE)


def moment(text: str | None) -> str:
    """Write an ISO 8601 time in the local time zone, to the second; ``-`` for none."""
    if not text:
        return "-"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_between(start: str | None, end: str | None) -> float | None:
    """Return the seconds between two ISO 8601 times, up to now when ``end`` is missing; None without a start."""
    if not start:
        return None
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return (until - datetime.fromisoformat(start)).total_seconds()


def duration(seconds: float | None) -> str:
    """Write seconds with the precision a person can use."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min"


def money(cost: Mapping[str, Any] | None) -> str:
    """Write a cost as the API gives it; calls of unknown price are named."""
    if not cost:
        return "-"
    unpriced = cost.get("unpriced_calls")
    amount = f"${cost.get('amount', '0')}"
    return f"{amount} + {unpriced} unpriced" if unpriced else amount


def compact(value: object, limit: int = 100) -> str:
    """Write a value on one line of at most ``limit`` characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(plain(text).split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Screen:
    """Where a command prints. With ``as_json`` standard output carries one JSON document and nothing else.

    ``is_terminal`` is whether a person reads standard output as it is written. With ``notes_on_stdout`` messages go
    there too (never together with JSON), for a command whose messages are its result.
    """

    def __init__(
        self, as_json: bool = False, *, is_terminal: bool | None = None, notes_on_stdout: bool = False
    ) -> None:
        self.as_json = as_json
        self.is_terminal = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._notes = "stdout" if notes_on_stdout and not as_json else "stderr"
        self._consoles: dict[str, Console] = {}

    @property
    def out(self) -> Console:
        """The console of standard output, for results."""
        return self._console("stdout")

    @property
    def err(self) -> Console:
        """The console for messages and progress: that of standard error, but for ``notes_on_stdout``."""
        return self._console(self._notes)

    def _console(self, name: str) -> Console:
        if name not in self._consoles:
            from rich.console import Console

            stream = sys.stderr if name == "stderr" else sys.stdout
            width = None if stream.isatty() else _WIDE
            self._consoles[name] = Console(file=stream, width=width, highlight=False, soft_wrap=True, emoji=False)
        return self._consoles[name]

    def note(self, text: str = "", style: str = "") -> None:
        """Say something to the person, on standard error."""
        self.err.print(plain(text), style=style, markup=False)

    def paragraph(self, text: str, style: str = "", *, hang: int = 4) -> None:
        """Say something that may be long: at a terminal it is broken between words, and goes on ``hang`` columns in."""
        if not self.err.is_terminal:
            self.note(text, style)
            return
        import textwrap

        width = max(20, min(self.err.width, _WIDE))
        indent = " " * (len(text) - len(text.lstrip()))
        for line in textwrap.wrap(plain(text).strip(), width, initial_indent=indent, subsequent_indent=" " * hang):
            self.note(line, style)

    def draw(self, picture: object) -> None:
        """Show something that rich draws, where messages go."""
        self.err.print(picture, soft_wrap=False)

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Say what is being done while the block runs, and that it is done and how long it took."""
        began = time.monotonic()
        with self.err.status(plain(text)) if self.err.is_terminal else nullcontext():
            yield
        self.note(f"  ✓ {text} ({duration(time.monotonic() - began)})", style="dim")

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line of the result, for a person."""
        if not self.as_json:
            self.out.print(plain(text), style=style, markup=False)

    def document(self, value: object) -> None:
        """Print a JSON document on standard output."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
        sys.stdout.flush()

    def table(self, columns: Sequence[Column], items: Iterable[Json], *, empty: str) -> None:
        """Print items as a table, or the sentence ``empty`` when there are none."""
        rows = [[_cell(item, source) for _, source in columns] for item in items]
        if not rows:
            self.note(empty)
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for heading, _ in columns:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.out.print(table, soft_wrap=False)

    def record(self, fields: Sequence[Column], item: Json) -> None:
        """Print one thing, a line for each of its fields that has a value."""
        lines = [(heading, _cell(item, source)) for heading, source in fields]
        width = max(len(heading) for heading, _ in lines)
        for heading, text in lines:
            if text and text != "-":
                indented = text.replace("\n", "\n" + " " * (width + 2))
                self.line(f"{heading.ljust(width)}  {indented}")


def _cell(item: Json, source: str | Callable[[Json], str]) -> str:
    value = item.get(source) if isinstance(source, str) else source(item)
    if value is None:
        return "-"
    if isinstance(value, list):
        return plain(", ".join(str(part) for part in value)) or "-"
    return plain(value)
