"""The driver ``command``: any program, started as it is given.

The program works in the folder with the files. What it leaves there, new or changed, are the outputs. The goal is for
people; the program gets it as ``RETINUE_GOAL``.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.kernel import Settings
from retinue.operations.driver import Finish, Launch, Progress, Stream, Task, Verdict

_NAME = "^[A-Za-z_][A-Za-z0-9_]*$"
_SHOWN = 2_000
_NOT_FOUND = 127
"""What shells, and the launchers of sandboxes, end with when there is no such program."""


class CommandDriver:
    """Starts a program with arguments; no model."""

    name = "command"
    title = "any program, such as /usr/bin/python3 with a script among the files"
    uses_model = False
    expects_outputs = False
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "argv": {
                "type": "array",
                "items": {"type": "string", "maxLength": 100_000},
                "minItems": 1,
                "maxItems": 1_000,
                "description": "the program and its arguments; no shell reads them",
            },
            "env": {
                "type": "object",
                "propertyNames": {"pattern": _NAME, "maxLength": 200},
                "additionalProperties": {"type": "string", "maxLength": 10_000},
                "maxProperties": 100,
                "description": "environment variables",
            },
            "stdin": {"type": "string", "maxLength": 1_000_000, "description": "what it reads"},
            "success": {
                "type": "array",
                "items": {"type": "integer", "minimum": 0, "maximum": 255},
                "minItems": 1,
                "maxItems": 256,
                "description": "exit codes that mean success; only 0 when left out",
            },
        },
        "required": ["argv"],
        "additionalProperties": False,
    }

    def complaint(self, settings: Settings) -> str | None:
        """Never: it needs nothing."""
        return None

    def attempt(self, task: Task) -> CommandAttempt:
        """Return a fresh attempt."""
        return CommandAttempt(task)


class CommandAttempt:
    """One start of the program."""

    def __init__(self, task: Task) -> None:
        self._task = task
        # Incremental: a character may be cut in two by the end of a piece.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": decoder("replace"), "stderr": decoder("replace")}

    def prepare(self) -> Launch:
        """Return the program as it was given."""
        given = self._task.parameters
        stdin = given.get("stdin")
        return Launch(
            argv=[str(one) for one in given["argv"]],
            env={"RETINUE_GOAL": self._task.goal.replace("\x00", ""), **given.get("env", {})},
            stdin=stdin.encode() if isinstance(stdin, str) else None,
        )

    def read(self, stream: Stream, chunk: bytes) -> Sequence[Progress]:
        """Show all that it writes."""
        text = self._decoders[stream].decode(chunk)
        return [Progress(text=text, kind="error" if stream == "stderr" else "output")] if text else []

    def judge(self, finish: Finish) -> Verdict:
        """Go by the exit code; whether it did anything, the room looks at what was expected."""
        code = finish.ended.exit_code
        said = (finish.stdout.strip() or finish.stderr.strip())[-_SHOWN:]
        if code in self._task.parameters.get("success", [0]):
            return Verdict(ok=True, summary=said)
        errors = (finish.stderr.strip() or finish.stdout.strip())[-_SHOWN:]
        means = ": a program was not found" if code == _NOT_FOUND else ""
        return Verdict(ok=False, kind="exit_code", summary=f"The program ended with {code}{means}. {errors}".strip())
