"""What the server answers without a script: by model name, by key, by lines of the user's last text.

Model names
    stub-0ms, stub-250ms, stub-1s   delay before the first byte
    stub-0ms-20x50ms                20 deltas, 50 ms apart; `-stamp` behind it makes each its time of sending
    fail-500, fail-429, ...         that HTTP status, always
    fail-hang, fail-cut, fail-broken, fail-close
    no-such-...                     404, unknown model
A key that starts with `bad` gets 401.

Lines of the user's last text (anywhere in it, each at the start of its line)
    !tool NAME {json}     one model turn that calls the tool; several lines are turns in this order
    !also NAME {json}     another call in the same turn as the line before
    !say TEXT             the answer, instead of the built-in one
    !json {json}          a structured answer
    !words N              an answer of N words
    !deltas N [SECONDS]   pieces, and the gap between them
    !delay SECONDS        before the first byte of every turn
    !hold NAME            wait for the release of NAME
    !usage INPUT OUTPUT   token counts of every turn
    !status CODE [N]      that HTTP status: for the first N requests of this turn, or always
    !hang [N], !cut DELTAS [N], !broken [N], !close [N]
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import orjson

from tests.support.model_server.ask import Ask
from tests.support.model_server.script import Step, ToolCall, Usage

_STUB = re.compile(r"stub-(\d+)(ms|s)(?:-(\d+)x(\d+)ms)?(-stamp)?")
_LINE = re.compile(r"^!(\w+)[ \t]*(.*)$", re.MULTILINE)
_ANSWER = "This is the answer of the scripted model server to your message."
_DELTAS = 8
_QUOTED = 2000

_BY_MODEL = {
    "fail-hang": Step(hang=True),
    "fail-cut": Step(text=_ANSWER, deltas=_DELTAS, cut_after=2),
    "fail-broken": Step(broken=True),
    "fail-close": Step(close=True),
}


def step_for(ask: Ask, seen: int) -> Step:
    """Return the built-in step for a request whose fingerprint came `seen` times before."""
    if ask.key is not None and ask.key.startswith("bad"):
        return Step(status=401, message="Incorrect API key provided", code="invalid_api_key")
    if ask.model.startswith("no-such-"):
        return Step(status=404, message=f"The model `{ask.model}` does not exist", code="model_not_found")
    if ask.model in _BY_MODEL:
        return _BY_MODEL[ask.model]
    if ask.model.startswith("fail-") and ask.model[5:].isdigit():
        return failure(int(ask.model[5:]))
    step = _directed(ask, seen) if "!" in ask.user else Step()
    step = _paced(ask.model, step)
    return step if is_decided(step) else answered(ask, step)


def failure(status: int) -> Step:
    """Return the step of an HTTP error as a provider words it; 429 asks to come back after a second."""
    code = {429: "rate_limit_exceeded", 401: "invalid_api_key", 404: "model_not_found"}.get(status, "server_error")
    return Step(
        status=status,
        message=f"The scripted model server was told to answer {status}",
        code=code,
        retry_after=1.0 if status == 429 else None,
    )


def is_decided(step: Step) -> bool:
    """Whether the step already says what to send; a hold or a delay alone does not."""
    failing = step.status != 200 or step.hang or step.broken or step.close
    return failing or step.stamp or step.text is not None or bool(step.tool_calls) or step.value is not msgspec.UNSET


def _paced(model: str, step: Step) -> Step:
    match = _STUB.fullmatch(model)
    if match is None:
        return step
    amount, unit, deltas, gap, stamp = match.groups()
    changes: dict[str, Any] = {"stamp": stamp is not None}
    if not step.delay:
        changes["delay"] = int(amount) / (1000 if unit == "ms" else 1)
    if deltas is not None and step.deltas == 1:
        changes |= {"deltas": int(deltas), "gap": int(gap) / 1000}
    return msgspec.structs.replace(step, **changes)


def answered(ask: Ask, step: Step) -> Step:
    """Fill in the built-in text: the tool results quoted, or a fixed sentence."""
    if ask.results:
        quotes = [f"Result of {result.name}: {result.text[:_QUOTED]}" for result in ask.results]
        text = "\n".join(quotes)
    else:
        text = _ANSWER
    return msgspec.structs.replace(step, text=text, deltas=step.deltas if step.deltas > 1 else _DELTAS)


def _directed(ask: Ask, seen: int) -> Step:
    """Read the directives of the user's last text for the turn the request asks for."""
    turns: list[list[ToolCall]] = []
    changes: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for name, rest in _LINE.findall(ask.user):
        if name in {"tool", "also"}:
            call = _tool_call(rest)
            if name == "also" and turns:
                turns[-1].append(call)
            else:
                turns.append([call])
        elif name in {"say", "json", "words"}:
            last = _final(name, rest.strip())
        else:
            changes |= _change(name, rest.split(), seen)
    if ask.turn < len(turns):
        return Step(tool_calls=tuple(turns[ask.turn]), **changes)
    return Step(**{**last, **changes})


def _tool_call(rest: str) -> ToolCall:
    name, _, arguments = rest.strip().partition(" ")
    try:
        return ToolCall(name, orjson.loads(arguments or "{}"))
    except orjson.JSONDecodeError:
        return ToolCall(name, arguments)


def _final(name: str, rest: str) -> dict[str, Any]:
    if name == "json":
        return {"value": orjson.loads(rest)}
    if name == "words":
        return {"text": " ".join(f"word{number}" for number in range(int(rest))), "deltas": _DELTAS}
    return {"text": rest, "deltas": _DELTAS}


def _change(name: str, words: list[str], seen: int) -> dict[str, Any]:
    """Return what one directive changes in the step; nothing when its count is used up."""
    match name, words:
        case "deltas", [count, *gap]:
            return {"deltas": int(count), "gap": float(gap[0]) if gap else 0.0}
        case "delay", [seconds]:
            return {"delay": float(seconds)}
        case "hold", [hold]:
            return {"hold": hold}
        case "usage", [given, produced]:
            return {"usage": Usage(int(given), int(produced))}
        case "status", [status, *times] if _due(times, seen):
            error = failure(int(status))
            return {field: getattr(error, field) for field in ("status", "message", "code", "retry_after")}
        case "cut", [deltas, *times] if _due(times, seen):
            return {"cut_after": int(deltas)}
        case (("hang" | "broken" | "close"), times) if _due(times, seen):
            return {name: True}
    return {}


def _due(times: list[str], seen: int) -> bool:
    return not times or seen < int(times[0])
