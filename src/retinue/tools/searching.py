"""Searches the text files of a workspace, within bounds of time and size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import regex
from msgspec import Struct

from retinue.kernel import Fault
from retinue.tools.calls import ToolFault
from retinue.tools.workspace import Workspace, split_path


class SearchLimits(Struct, frozen=True):
    """How much one search may do: seconds in all, bytes of a file, matches, characters of a line shown."""

    seconds: float = 10.0
    file_bytes: int = 10_000_000
    matches: int = 200
    line: int = 300


class Found(Struct):
    """What a search found, and what it left out."""

    lines: list[str]
    files: int = 0
    passed_over: int = 0
    stopped: str | None = None

    def report(self) -> str:
        """Write it for the model."""
        notes = [f"{len(self.lines)} matching lines in {self.files} files searched"]
        if self.passed_over:
            notes.append(f"{self.passed_over} files left out because they are binary or too large")
        if self.stopped:
            notes.append(self.stopped)
        return "\n".join([*self.lines, f"[{'; '.join(notes)}.]"])


class Search:
    """One search.

    Raises:
        ToolFault: the regular expression cannot be understood.
    """

    def __init__(self, query: str, *, regex: bool, ignore_case: bool, limits: SearchLimits) -> None:
        self._limits = limits
        self._pattern = _compiled(query, plain=not regex, ignore_case=ignore_case)
        self._deadline = time.monotonic() + limits.seconds

    def run(self, workspace: Workspace, path: str) -> Found:
        """Search a file, or all files below a folder; stops with a note when a limit is reached."""
        found = Found([])
        try:
            for name in _files(workspace, path):
                self._search_file(workspace, name, found)
        except TimeoutError:
            found.stopped = f"stopped after {self._limits.seconds:g} seconds, so there may be more"
        except _EnoughFound:
            found.stopped = f"stopped after {self._limits.matches} matches, so there may be more"
        return found

    def _search_file(self, workspace: Workspace, name: str, found: Found) -> None:
        text = self._text(workspace, name)
        if text is None:
            found.passed_over += 1
            return
        found.files += 1
        for number, line in self._matches(text):
            found.lines.append(f"{name}:{number}: {line}")
            if len(found.lines) >= self._limits.matches:
                raise _EnoughFound

    def _text(self, workspace: Workspace, name: str) -> str | None:
        try:
            with workspace.open(name) as file:
                data = file.read(self._limits.file_bytes + 1)
        except Fault:  # it went away, or is no longer a plain file
            return None
        if len(data) > self._limits.file_bytes or b"\0" in data:
            return None
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            return None

    def _matches(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each line on which a match begins."""
        number, counted, shown_to = 1, 0, -1
        # `concurrent`: the library lets other threads run while it matches.
        for match in self._pattern.finditer(text, timeout=self._left(), concurrent=True):
            self._left()  # a great many empty matches cost time too
            if match.start() < shown_to or match.start() == match.end():
                continue
            number += text.count("\n", counted, match.start())
            start = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.start())
            shown_to = counted = len(text) if end < 0 else end
            yield number, self._shown(text[start:shown_to].strip(), match.start() - start)

    def _shown(self, line: str, at: int) -> str:
        """Cut a long line so that the match stays in it."""
        if len(line) <= self._limits.line:
            return line
        start = max(0, at - self._limits.line // 3)
        end = start + self._limits.line
        return f"{'...' if start else ''}{line[start:end]}{'...' if end < len(line) else ''}"

    def _left(self) -> float:
        """Return the seconds left; raises :class:`TimeoutError` when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class _EnoughFound(Exception):
    """The limit of matches is reached."""


def _compiled(query: str, *, plain: bool, ignore_case: bool) -> regex.Pattern[str]:
    flags = regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0)
    try:
        return regex.compile(regex.escape(query) if plain else query, flags)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ToolFault(f"The regular expression cannot be understood: {error}") from None


def _files(workspace: Workspace, path: str) -> Iterator[str]:
    parts = split_path(path)
    if parts and _is_file(workspace, path):
        yield "/".join(parts)
        return
    with closing(workspace.entries(path, recursive=True)) as entries:
        yield from (entry.path for entry in entries if not entry.folder)


def _is_file(workspace: Workspace, path: str) -> bool:
    try:
        workspace.open(path).close()
    except Fault:
        return False
    return True
