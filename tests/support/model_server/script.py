"""What the model server is told to answer: steps, and rules that say which request gets which step."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call the model asks for. `arguments` given as a string are sent as they are, broken JSON included."""

    name: str
    arguments: dict[str, Any] | str = {}
    id: str | None = None


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Token counts of one answer. `cached` is the part of `input` that came from the provider's cache."""

    input: int
    output: int
    cached: int = 0


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One answer, or one way to fail. Times are seconds.

    text        the answer; None is the built-in answer when nothing else is asked of the step
    value       a structured answer: sent as JSON text, or through the request's output tool if it has one
    tool_calls  calls the answer asks for, after the text
    deltas      pieces the text is streamed in
    delay       before the first byte
    gap         between two deltas
    stamp       each delta is the sender's `time.monotonic_ns()` and a space, to measure the lag of a delta
    usage       token counts; estimated from the lengths when None
    status      an HTTP status; anything but 200 answers an error document of the wire's own shape
    message     the text of that error
    code        its machine-readable code, where the wire has one
    retry_after value of the Retry-After header
    hold        wait for `release(hold)` before the first byte
    hang        never answer; ends when the client goes away or the server stops
    cut_after   close the connection after this many deltas, without the end of the answer
    broken      send JSON that ends in the middle
    close       close the connection before the first byte
    finish      a finish reason other than the natural one
    times       how many requests in a row get this step
    """

    text: str | None = None
    value: Any = msgspec.UNSET
    tool_calls: tuple[ToolCall, ...] = ()
    deltas: int = 1
    delay: float = 0.0
    gap: float = 0.0
    stamp: bool = False
    usage: Usage | None = None
    status: int = 200
    message: str | None = None
    code: str | None = None
    retry_after: float | None = None
    hold: str | None = None
    hang: bool = False
    cut_after: int | None = None
    broken: bool = False
    close: bool = False
    finish: Literal["length", "content_filter"] | None = None
    times: int = 1


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Steps for the requests that match. A condition left None matches every request.

    model       the model's name, exactly
    contains    a piece of any user text in the conversation
    key         the API key the request carried
    by          `arrival`: the n-th matching request gets the n-th step. `turn`: chosen by how many answers
                the model gave since the last user text, so a repeated request gets the same step again
    then        after the last step: the built-in answer, the last step again, or HTTP 500 saying so
    """

    steps: tuple[Step, ...]
    model: str | None = None
    contains: str | None = None
    key: str | None = None
    by: Literal["arrival", "turn"] = "arrival"
    then: Literal["built-in", "repeat", "error"] = "built-in"


USED_UP = Step(status=500, message="the script has no step left for this request", code="script_used_up")


class Scripts:
    """The scripts posted so far, asked in the order they were posted."""

    def __init__(self) -> None:
        self._scripts: list[tuple[Script, list[Step]]] = []
        self._served: list[int] = []

    def add(self, script: Script) -> None:
        """Add a script behind those already there."""
        self._scripts.append((script, [step for step in script.steps for _ in range(step.times)]))
        self._served.append(0)

    def clear(self) -> None:
        """Forget every script."""
        self._scripts.clear()
        self._served.clear()

    def step(self, *, model: str, texts: list[str], key: str | None, turn: int) -> Step | None:
        """Return the step for a request, or None when no script has one for it."""
        for index, (script, steps) in enumerate(self._scripts):
            if not _matches(script, model, texts, key):
                continue
            number = turn if script.by == "turn" else self._served[index]
            self._served[index] += 1
            if number < len(steps):
                return steps[number]
            if script.then == "repeat" and steps:
                return steps[-1]
            if script.then == "error":
                return USED_UP
        return None


def _matches(script: Script, model: str, texts: list[str], key: str | None) -> bool:
    if script.model is not None and script.model != model:
        return False
    if script.key is not None and script.key != key:
        return False
    return script.contains is None or any(script.contains in text for text in texts)
