"""What a command that follows something live prints: the answer as it is written, and words beside it."""

from __future__ import annotations

import sys

from retinue.cli.screen import Json, Screen, compact, duration, plain


class Transcript:
    """Prints what a run does. The answer goes to standard output, everything else to standard error.

    Where standard output is no terminal, the answer is printed once, when it is finished.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live = screen.is_terminal and not screen.as_json
        self._text = ""
        self._attempt = 0
        self._joined = True
        self._answered = False
        self._open_line = False

    def connected(self) -> None:
        """A new connection begins with the text so far, which is here already."""
        self._joined = True

    def delta(self, payload: Json) -> None:
        """Take a frame: ``text`` at ``offset`` of the current text, which offset 0 begins anew."""
        text, offset = str(payload.get("text") or ""), int(payload.get("offset") or 0)
        attempt = int(payload.get("attempt") or 1)
        if offset == 0:
            known = self._text if self._joined and attempt == self._attempt else ""
            if known and text.startswith(known):
                text = text[len(known) :]
            elif self._text:
                self._begin_anew()
            self._attempt, self._joined, self._answered = attempt, False, False
        elif offset < len(self._text):
            text = text[len(self._text) - offset :]
        elif offset > len(self._text):
            return  # something is missing; the finished message has it all
        self._text += text
        self._write(text)

    def _begin_anew(self) -> None:
        self.close_line()
        if not self._answered:
            self.note("(the answer broke off; it begins again)", style="dim")
        self._text = ""

    def answered(self) -> None:
        """The model has finished what it was saying; text that comes now is something else."""
        self._answered = True

    def message(self, content: str) -> None:
        """The finished answer: print what is not on the screen yet."""
        if not content.startswith(self._text):
            self.close_line()
            self._text = ""
        rest = content[len(self._text) :]
        if self._live:
            self._write(rest)
        elif not self._screen.as_json:
            sys.stdout.write(plain(content) + "\n")
            sys.stdout.flush()
        self.close_line()
        self._text = ""

    def step(self, text: str) -> None:
        """A step of the run, such as a tool call."""
        self.note(f"  · {text}", style="dim")

    def note(self, text: str, style: str = "") -> None:
        """A message beside the answer."""
        self.close_line()
        self._screen.note(text, style=style)

    def aside(self, text: str) -> None:
        """A message beside the answer that may be longer than a line."""
        self.close_line()
        for line in text.splitlines():
            self._screen.paragraph(line, style="dim", hang=1)

    def close_line(self) -> None:
        """End the line the answer is on."""
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open_line = False

    def _write(self, text: str) -> None:
        if text and self._live:
            sys.stdout.write(plain(text))
            sys.stdout.flush()
            self._open_line = not text.endswith("\n")


def call_words(payload: Json) -> str:
    """Say in a line which call a run makes."""
    return f"{payload.get('name')}({_arguments(payload.get('arguments'))})"


def result_words(payload: Json, *, announced: bool) -> str:
    """Say in a line what came of a call; nothing when it was announced and went well."""
    if payload.get("failed"):
        return f"{payload.get('name')} failed: {compact(payload.get('content'), 120)}"
    if announced:
        return ""
    return f"{payload.get('name')} ({duration(float(payload.get('milliseconds') or 0) / 1000)})"


def decision_words(payload: Json) -> str:
    """Say in a line what a person decided."""
    return f"{payload.get('status')}: {payload['comment']}" if payload.get("comment") else str(payload.get("status"))


def _arguments(arguments: object) -> str:
    if isinstance(arguments, dict):
        return ", ".join(f"{name}={compact(value, 60)}" for name, value in arguments.items())
    return compact(arguments, 100) if arguments else ""
