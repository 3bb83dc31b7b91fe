"""A tool, and the one guarded way to call it.

Whatever a tool does, :meth:`Tool.run` gives the run loop an outcome: bad arguments, an exception, a result of 10 MB
and a call that never returns all become text for the model. Only the cancellation of the run itself passes through.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct

from retinue.kernel import Clock, Fault, Settings
from retinue.tools.arguments import ArgumentCheck
from retinue.tools.labels import Labels

logger = logging.getLogger(__name__)

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What the providers accept as the name of a tool."""

LONGEST_RESULT = 100_000
"""Characters of a result that reach the model; the rest is cut, with a note."""

CALL_TIMEOUT = 60.0
"""Seconds a call may take when its tool does not say otherwise."""

_GRACE = 0.5
"""Seconds a cancelled call has to clean up before it is left to itself."""

_SHORTEST_SECRET = 6
"""A shorter secret is not searched for in results: it would blot out innocent text."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, which PostgreSQL does not store, and lone surrogates, which UTF-8 does not have."""


class ToolFault(Exception):
    """A tool's refusal; its text is what the model is told."""


class ToolOutcome(Struct, frozen=True, omit_defaults=True):
    """What the model is told about a call.

    Attributes:
        content: the text.
        failed: the call did not do what was asked.
        uncertain: a call that changes something was cut off, and nobody knows whether it happened.
    """

    content: str
    failed: bool = False
    uncertain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Whose call it is and where it may act.

    Attributes:
        idempotency_key: the same for every try of the same call, never for two calls.
        workspace: the session's own folder; it exists.
        secrets: the tenant's secrets this tool may use; they are blotted out of its result.
    """

    tenant_id: UUID
    user_id: UUID | None
    session_id: UUID
    run_id: UUID
    call_id: str
    idempotency_key: str
    workspace: Path
    settings: Settings
    clock: Clock
    secrets: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[ToolContext, dict[str, Any]], Awaitable[object]]
"""What it returns becomes the content (see :func:`as_text`), unless it is a whole :class:`ToolOutcome`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something a model can call.

    Attributes:
        name: unique in an agent; letters, digits, ``_`` and ``-``, at most 64.
        description: for the model: what it does and when to use it.
        parameters: the JSON Schema (draft 2020-12) of its arguments, an object.
        labels: what a call may cause.
        handler: does the work with arguments that fit the schema. It raises :class:`ToolFault` or a kernel fault to
            refuse, and nothing else on purpose.
        timeout: seconds a call may take.

    Raises:
        ValueError: the name or the schema cannot be used.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    labels: Labels
    handler: Handler
    timeout: float = CALL_TIMEOUT
    _check: ArgumentCheck = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a tool cannot be called {self.name!r}: letters, digits, _ and -, at most 64")
        object.__setattr__(self, "_check", ArgumentCheck(self.parameters))

    async def run(self, context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        """Call the tool; never raises but when the calling task is cancelled."""
        try:
            complaint = self._check.complaint(arguments)
        except Exception as error:  # a schema from elsewhere can defeat the validator, by recursion for one
            logger.warning("the arguments of %s cannot be checked: %r", self.name, error)
            complaint = "the arguments cannot be checked against the tool's schema"
        if complaint:
            return ToolOutcome(f"The arguments are not valid: {complaint}", failed=True)
        return _presentable(await self._called(context, arguments), context.secrets)

    async def _called(self, context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        # A task of its own, so that a handler that does not heed its cancellation cannot hold the run.
        task = asyncio.ensure_future(self._handled(context, arguments))
        try:
            await asyncio.wait({task}, timeout=self.timeout)
        except asyncio.CancelledError:
            await self._stop(task)
            raise
        if not task.done():
            await self._stop(task)
            return self._out_of_time()
        if task.cancelled():
            return ToolOutcome(f"The tool {self.name} stopped by itself.", failed=True, uncertain=self._at_stake)
        return task.result()

    async def _handled(self, context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        try:
            result = await self.handler(context, arguments)
            return result if isinstance(result, ToolOutcome) else ToolOutcome(as_text(result))
        except ToolFault as fault:
            return ToolOutcome(str(fault), failed=True)
        except Fault as fault:
            return ToolOutcome(fault.detail, failed=True)
        # SystemExit would end the server's event loop, and a tool has no business doing that.
        except (Exception, SystemExit) as error:
            logger.warning("the tool %s raised", self.name, exc_info=error)
            return ToolOutcome(f"The tool {self.name} failed: {_described(error)}", failed=True)

    @property
    def _at_stake(self) -> bool:
        return not self.labels.repeatable

    def _out_of_time(self) -> ToolOutcome:
        doubt = " It is not known whether it happened." if self._at_stake else ""
        text = f"The tool {self.name} did not finish within {self.timeout:g} seconds and was stopped.{doubt}"
        return ToolOutcome(text, failed=True, uncertain=self._at_stake)

    async def _stop(self, task: asyncio.Task[ToolOutcome]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=_GRACE)
        if not task.done():
            logger.warning("a call of %s does not heed its cancellation and is left to itself", self.name)


def read_arguments(text: str) -> dict[str, Any]:
    """Read a call's arguments as the model wrote them; nothing at all means no arguments.

    Raises:
        ToolFault: the text is not a JSON object; says what is wrong with it.
    """
    try:
        arguments = json.loads(text) if text.strip() else {}
    except RecursionError:
        raise ToolFault("The arguments are nested too deeply.") from None
    except ValueError as error:
        raise ToolFault(f"The arguments are not valid JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise ToolFault("The arguments must be a JSON object.")
    return arguments


def as_text(result: object) -> str:
    """Write what a function returned as text: strings as they are, nothing as nothing, the rest as JSON."""
    if isinstance(result, str):
        return result
    if result is None:
        return ""
    # Imported on first use: most servers have no tool that returns anything but text.
    from pydantic_core import to_json

    return to_json(result, fallback=str).decode()


def _described(error: BaseException) -> str:
    text = str(error).strip()
    kind = type(error).__name__
    return f"{kind}: {text[:500]}" if text else kind


def _presentable(outcome: ToolOutcome, secrets: Mapping[str, str]) -> ToolOutcome:
    """Blot out secrets, replace what cannot be stored, and cut what is too long."""
    content = as_text(outcome.content)  # a plugin can put anything there: structs do not check
    for secret in secrets.values():
        if len(secret) >= _SHORTEST_SECRET:
            content = content.replace(secret, "[secret]")
    if len(content) > LONGEST_RESULT:
        note = f"\n[Cut: the result has {len(content):,} characters; the first {LONGEST_RESULT:,} are shown.]"
        content = content[:LONGEST_RESULT] + note
    content = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", content)
    if content == outcome.content:
        return outcome
    return ToolOutcome(content, failed=outcome.failed, uncertain=outcome.uncertain)
