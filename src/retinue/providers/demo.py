"""The provider ``demo``: a script, not a model. It needs no key and no network, and labels whatever it says.

It shows what an agent does: with file tools it lists and reads the files, quotes them, and writes a file when it is
asked to, so that an approval comes up. Everything it quotes was really read through tool calls. It answers to any
name; ``demo:slow`` takes its time, for those who want to watch or interrupt it. With the tool ``plan`` it has a team
read, check and write. Command-line agents hear it in the words of their own tools (``demo_cli``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from retinue.providers.backend import Beat, OnDelta, Reply
from retinue.providers.demo_cli import in_our_words, in_their_words, is_of_cli
from retinue.providers.messages import AnswerPart, ModelRequest, Text, ToolCall, ToolResult

DEMO = "demo:assistant"
LABEL = "[demo]"

_MOST_FILES = 3
_QUOTES_A_FILE = 2
_LONGEST_QUOTE = 240
_WORDS_A_DELTA = 4
_SECONDS_A_DELTA = 0.01
_SLOW = {"slow": 0.2}
# `demo:slow` also thinks before each turn: time enough to cancel or kill something meanwhile.
_SECONDS_OF_THOUGHT = {"slow": 1.0}
_CHARACTERS_A_TOKEN = 4

_TEXT_FILE = re.compile(r"\.(?:md|txt|rst|csv|json|ya?ml|toml|py|html?|log|tex|org|adoc)$", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:write|save|store|create|put)\b", re.IGNORECASE)
_FILE_NAME = re.compile(r"[\w/-]+(?:\.[\w-]+)*\.\w{1,5}\b")
_TIME = re.compile(r"\b(?:what time|which day|what day|today'?s date|what date|the time)\b", re.IGNORECASE)
_ASK_ME = re.compile(r"\bask me\b", re.IGNORECASE)
_MEMBER = re.compile(r"^- (.+?): ", re.MULTILINE)
# What a task of a plan is told: see `planning/briefing.py`.
_TASK = re.compile(
    r"^Your task(?: \(.*\))?:\n\n(.*?)(?=\n\n(?:The result shall be: |Results of earlier tasks)|\Z)", re.M | re.S
)
_RESULT = re.compile(r'^<result task="([^"]*)"[^>]*>\n(.*?)\n</result>$', re.M | re.S)
_CAST = (("researcher", "architect"), ("reviewer", "experimenter"), ("writer", "implementer"))
_WORD = re.compile(r"[^\W\d_]{4,}")
_GOOD_BYE = "Set a provider's key to talk to a real model."
_COMMON = frozenset(
    _WORD.findall(
        "about also answer does file files folder from have into make please read save some summary summarise "
        "summarize tell that them there these they this what when where which with write your"
    )
)


class Demo:
    """A backend that follows the script."""

    async def ask(self, model: str, request: ModelRequest, on_delta: OnDelta, beat: Beat) -> Reply:
        """Answer from the conversation alone; the same conversation gets the same answer."""
        parts = decide(request)
        pause = _SLOW.get(model, _SECONDS_A_DELTA)
        await asyncio.sleep(_SECONDS_OF_THOUGHT.get(model, pause))
        for part in parts:
            if isinstance(part, Text):
                await _speak(part.text, pause, on_delta, beat)
        written = sum(_size(part) for part in parts)
        read = len(request.instructions) + sum(_size(part) for message in request.messages for part in message.parts)
        return Reply(
            parts=parts,
            input_tokens=read // _CHARACTERS_A_TOKEN,
            output_tokens=written // _CHARACTERS_A_TOKEN,
            finish="tool_call" if any(isinstance(part, ToolCall) for part in parts) else "stop",
            served_by=model,
        )

    async def list_models(self) -> Sequence[str]:
        """Return the one name it has; it answers to any."""
        return [DEMO.partition(":")[2]]


async def _speak(text: str, pause: float, on_delta: OnDelta, beat: Beat) -> None:
    words = re.findall(r"\S+\s*", text)
    for start in range(0, len(words), _WORDS_A_DELTA):
        beat()
        on_delta("".join(words[start : start + _WORDS_A_DELTA]))
        await asyncio.sleep(pause)


def _size(part: Any) -> int:
    return sum(len(value) for value in (getattr(part, name, "") for name in ("text", "arguments", "content")))


# The script


class _Scene:
    """What the script goes by: the question, the tools, and what the tools answered since the question.

    Attributes:
        question: what was asked, without results of earlier tasks.
        task: of that, what is to be done here; all of it, but for a task of a plan.
        given: names and results of earlier tasks.
    """

    def __init__(self, request: ModelRequest) -> None:
        self.tools = {tool.name for tool in request.tools}
        self.team = [
            name for tool in request.tools if tool.name == "plan" for name in _MEMBER.findall(tool.description)
        ]
        self.question = self.task = ""
        self.given: list[tuple[str, str]] = []
        self.calls: list[ToolCall] = []
        self.results: dict[str, ToolResult] = {}
        self.calls_before = 0
        for part in (part for message in request.messages for part in _in_order(message.role, message.parts)):
            if isinstance(part, str):
                self.calls, self.results = [], {}
                self._understand(part)
            elif isinstance(part, ToolCall):
                self.calls.append(part)
                self.calls_before += 1
            elif isinstance(part, ToolResult):
                self.results[part.id] = part

    def _understand(self, text: str) -> None:
        """Tell what is to be done from what earlier tasks gave, where the text is that of a plan's task."""
        self.given = _RESULT.findall(text)
        task = _TASK.search(text)
        self.task = task.group(1) if task else text
        self.question = text[: task.end()] if task else text

    def answers(self, tool: str) -> list[tuple[dict[str, Any], ToolResult]]:
        """Return the arguments and results of a tool's calls."""
        return [
            (msgspec.json.decode(call.arguments), self.results[call.id])
            for call in self.calls
            if call.name == tool and call.id in self.results
        ]

    def waits_for(self, tool: str) -> bool:
        """Whether the tool is there and was not called for this question."""
        return tool in self.tools and not any(call.name == tool for call in self.calls)

    def call(self, tool: str, number: int = 0, /, **arguments: Any) -> ToolCall:
        """Return a new call; its id is not used anywhere in the conversation."""
        name = f"demo_{self.calls_before + number + 1}"
        return ToolCall(name, tool, msgspec.json.encode(arguments).decode())


def _in_order(role: str, parts: Iterable[Any]) -> Iterable[Any]:
    """Give the user's texts as plain strings, to tell them from the assistant's."""
    for part in parts:
        if not isinstance(part, Text):
            yield part
        elif role == "user":
            yield part.text


def decide(request: ModelRequest) -> list[AnswerPart]:
    """Return the next turn of the script."""
    if request.output_schema is not None:
        return [Text(msgspec.json.encode(example(request.output_schema)).decode())]
    if is_of_cli(request):
        return [in_their_words(part, request) for part in decide(in_our_words(request))]
    scene = _Scene(request)
    return _next_calls(scene) or [Text(f"{LABEL} {_closing_words(scene)}")]


def _next_calls(scene: _Scene) -> list[AnswerPart]:
    if _TIME.search(scene.question) and scene.waits_for("clock"):
        return [scene.call("clock")]
    if _ASK_ME.search(scene.question) and scene.waits_for("ask_user"):
        return [scene.call("ask_user", question="What would you like the demo to do?", options=["go on", "stop"])]
    if scene.waits_for("plan") and scene.team:
        return [scene.call("plan", title=" ".join(scene.question.split())[:80], tasks=_tasks(scene))]
    looks = not scene.given  # what others found is there already
    if looks and scene.waits_for("files_list"):
        return [scene.call("files_list", path=".", recursive=True)]
    if looks and scene.waits_for("files_read"):
        paths = _chosen(scene)
        if paths:
            return [scene.call("files_read", number, path=path, limit=200) for number, path in enumerate(paths)]
    if _WRITES.search(scene.task) and scene.waits_for("files_write"):
        return [scene.call("files_write", path=_target(scene.task), content=_document(scene))]
    return []


def _tasks(scene: _Scene) -> list[dict[str, Any]]:
    """Plan: two look side by side, and the third goes on from what they found."""
    first, second, last = (_member(scene.team, *names) for names in _CAST)
    looks = [
        {
            "id": name,
            "title": what,
            "agent": agent,
            "instructions": f"{what}. Quote what matters for the request.",
            "expected": "quotes with the files they come from",
            "risk": "low",
            "confidence": 0.9,
            "tokens": 2000,
        }
        for name, agent, what in (("find", first, "Read the files"), ("check", second, "Read the files critically"))
    ]
    writes = bool(_WRITES.search(scene.question))
    does = f"Write {_target(scene.question)} from what the others found" if writes else "Bring the answer together"
    end = {
        "id": "write",
        "title": does,
        "agent": last,
        "instructions": f"{does}.",
        "depends_on": ["find", "check"],
        "expected": _target(scene.question) if writes else "the answer",
        "risk": "medium" if writes else "low",
        "confidence": 0.9,
        "tokens": 2000,
    }
    return [*looks, end]


def _member(team: Sequence[str], *names: str) -> str:
    """Return the first of ``names`` that is in the team; else whoever comes first there."""
    return next((name for name in names if name in team), team[0])


def _chosen(scene: _Scene) -> list[str]:
    """Choose the files to read: those the question names, then those whose names share words with it."""
    listing = "\n".join(result.content for _, result in scene.answers("files_list") if not result.failed)
    paths = [line.partition("\t")[0].strip() for line in listing.splitlines()]
    texts = [path for path in paths if _TEXT_FILE.search(path)]
    target = _target(scene.task) if _WRITES.search(scene.task) else ""
    words = _words(scene.question)

    def rank(path: str) -> tuple[bool, int, bool, int, str]:
        named = path.lower() in scene.question.lower()
        return (not named, -len(words & _words(path)), "readme" not in path.lower(), path.count("/"), path)

    return sorted((path for path in texts if path != target), key=rank)[:_MOST_FILES]


def _target(question: str) -> str:
    """Return the file the question wants written: the last one it names after the word for writing."""
    written = _WRITES.search(question)
    names = _FILE_NAME.findall(question, written.end()) if written else []
    return names[-1] if names else "summary.md"


def _quotes(scene: _Scene) -> list[tuple[str, list[str]]]:
    words = _words(scene.question)
    found = []
    for arguments, result in scene.answers("files_read"):
        if result.failed:
            continue
        lines = [line.strip() for line in result.content.splitlines() if len(line.strip()) > 1]
        best = sorted(lines, key=lambda line: -len(words & _words(line)))[:_QUOTES_A_FILE]
        found.append((str(arguments.get("path", "")), [line[:_LONGEST_QUOTE] for line in lines if line in best]))
    return found


def _document(scene: _Scene) -> str:
    sections = [f"## {path}\n\n" + "\n".join(f"> {line}" for line in lines) for path, lines in _quotes(scene)]
    sections += [f"## What {name} found\n\n{_without_frame(text)}" for name, text in scene.given]
    body = "\n\n".join(sections) or "There were no files to read."
    return f"# Summary\n\n{LABEL} Put together by the demo provider, which quotes and does not think.\n\n{body}\n"


def _closing_words(scene: _Scene) -> str:
    said = [f"The clock says {result.content}." for _, result in scene.answers("clock")]
    said += [f"You answered: {result.content}" for _, result in scene.answers("ask_user")]
    said += [_without_frame(result.content) for _, result in scene.answers("plan")]
    quotes = _quotes(scene)
    if quotes:
        said.append("This is what I read in your files:")
        said += [f"\n{path}:\n" + "\n".join(f"> {line}" for line in lines) for path, lines in quotes]
    elif scene.answers("files_list"):
        said.append("I looked for text files and found none. Upload one and ask again.")
    if scene.given:
        said.append(f"I went on from what {' and '.join(name for name, _ in scene.given)} found.")
    for arguments, result in scene.answers("files_write"):
        outcome = f"was not written: {result.content}" if result.failed else "is written."
        said.append(f"\n{arguments.get('path')} {outcome}")
    if not said:
        said.append(f"No model is set up, so this is a scripted answer. You asked: {scene.question[:500]!r}.")
    said.append(f"\n{_GOOD_BYE}")
    return "\n".join(said)


def _without_frame(text: str) -> str:
    """Return what somebody else said by this script, without the label and the last words, which come once."""
    return re.sub(r"\n{3,}", "\n\n", text.replace(f"{LABEL} ", "").replace(_GOOD_BYE, "")).strip()


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)} - _COMMON


def example(schema: dict[str, Any]) -> Any:
    """Return a value that satisfies a plain JSON schema: the constants it names, else the least of each type."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return example(schema[choice][0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties", {})
            return {name: example(properties.get(name, {})) for name in schema.get("required", properties)}
        case "array":
            return [example(schema.get("items", {}))] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return LABEL.ljust(schema.get("minLength", 0), ".")
