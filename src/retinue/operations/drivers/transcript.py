"""What an agent said and did, as its driver has heard it, and the verdict that follows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from retinue.operations.driver import Finish, Progress, Verdict
from retinue.operations.drivers.listening import call_line, shortened

_LONGEST_ANSWER = 16_000
_LAST_LINES = 2_000

# How the agents tell of an answer of the model gateway: "[API Error: 402 ...]" or {"error": {"code": 402, ...
_STATUS = re.compile(r"API Error: (\d{3})\b|\"code\":\s*(\d{3})\b|^(\d{3}) ")
_TURNS = re.compile(r"max(?:imum)?[ _]?(?:session[ _])?turn|max-session-turns", re.IGNORECASE)
_LOOP = re.compile(r"\bloop (?:detect|was detect)|loop detection", re.IGNORECASE)

KINDS = {402: "budget", 403: "forbidden_model", 429: "model_busy"}
"""Status of the gateway's answer -> kind of the verdict; any other is ``model_error``."""


def kind_of(message: str) -> str | None:
    """Say what an agent's own error message means, as a kind of verdict; None: nothing known."""
    found = _STATUS.search(message)
    if found:
        return KINDS.get(int(next(group for group in found.groups() if group)), "model_error")
    if _TURNS.search(message):
        return "turns"
    if _LOOP.search(message):
        return "loop"
    return "model_error" if "API Error" in message else None


@dataclass(slots=True)
class Transcript:
    """What was said and done so far.

    Attributes:
        answer: what it has said since it last used a tool.
        calls: how often it used a tool.
        ended: whether it told how it ended.
        failed: whether it told that it failed, or something that means the same.
        error: what it told about that.
        kind: what that means, as a kind of verdict; empty: not known.
    """

    answer: str = ""
    calls: int = 0
    ended: bool = False
    failed: bool = False
    error: str = ""
    kind: str = ""
    _open: bool = field(default=False, repr=False)

    def said(self, text: str) -> list[Progress]:
        """Take words of the agent."""
        if not text:
            return []
        self.answer = (self.answer + text)[:_LONGEST_ANSWER]
        self._open = not text.endswith("\n")
        return [Progress(text=shortened(text), kind="text")]

    def used(self, tool: object, arguments: object) -> list[Progress]:
        """Take that it uses a tool; what it said before was not its answer."""
        self.calls += 1
        self.answer = ""
        return [*self._closed(), Progress(text=call_line(tool, arguments), kind="tool")]

    def erred(self, message: str, *, fatal: bool = False) -> list[Progress]:
        """Take an error. ``fatal``: it could not do what it was asked."""
        if fatal:
            self.failed = True
            self.error = self.error or message
            self.kind = self.kind or kind_of(message) or ""
        return [*self._closed(), Progress(text=shortened(message.strip()) + "\n", kind="error")]

    def finished(self) -> list[Progress]:
        """Take that it is done."""
        self.ended = True
        return self._closed()

    def _closed(self) -> list[Progress]:
        was, self._open = self._open, False
        return [Progress(text="\n", kind="text")] if was else []

    def verdict(self, finish: Finish, *, told: Sequence[int] = ()) -> Verdict:
        """Judge by what it told, and by how it ended.

        Args:
            finish: what is known.
            told: exit codes that stand for an error that was told already.
        """
        code = finish.ended.exit_code
        if self.failed:
            return Verdict(ok=False, kind=self.kind or "agent_failed", summary=self.error.strip())
        if code != 0:
            said = (finish.stderr.strip() or finish.stdout.strip())[-_LAST_LINES:]
            kind = "turns" if code in told else kind_of(said) or "exit_code"
            return Verdict(ok=False, kind=kind, summary=f"The agent ended with {code}. {said}".strip())
        if not self.ended:
            return Verdict(ok=False, kind="no_answer", summary="The agent ended without saying what came of it.")
        if not self.answer.strip() and not self.calls:
            return Verdict(ok=False, kind="nothing_done", summary="The agent said nothing and did nothing.")
        return Verdict(ok=True, summary=self.answer.strip())
