"""How the demo's script speaks with a command-line agent: the same script, in the words of that agent's own tools.

Qwen Code and its kin offer a model ``glob``, ``read_file`` and ``write_file`` with absolute paths, and say in the first
message which folder they work in. A request of that kind is put into the script's words, and the answer back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from posixpath import join, relpath
from typing import Any

import msgspec

from retinue.providers.messages import AnswerPart, Message, ModelRequest, Text, ToolCall, ToolResult, ToolSpec

_OURS = {"glob": "files_list", "read_file": "files_read", "write_file": "files_write"}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_ASIDE = re.compile(r"<system-reminder>.*?</system-reminder>\s*", re.DOTALL)
_FOLDER = re.compile(r"currently working in the director(?:y|ies): *(\S+)")


def is_of_cli(request: ModelRequest) -> bool:
    """Tell whether the request comes from a command-line agent with tools of its own."""
    return set(_OURS) <= {tool.name for tool in request.tools}


def in_our_words(request: ModelRequest) -> ModelRequest:
    """Return the request with the names, arguments and results that the script knows, and without asides."""
    folder = _folder(request)
    names = {part.id: part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall)}
    messages = [_message(message, folder, names) for message in request.messages]
    tools = [ToolSpec(_OURS[one.name], one.description, one.parameters) for one in request.tools if one.name in _OURS]
    return msgspec.structs.replace(request, messages=[one for one in messages if one.parts], tools=tools)


def in_their_words(part: AnswerPart, request: ModelRequest) -> AnswerPart:
    """Return what the script wants to do as a call of the agent's own tool."""
    if not isinstance(part, ToolCall):
        return part
    arguments = msgspec.json.decode(part.arguments)
    if part.name == "files_list":
        theirs: dict[str, Any] = {"pattern": "**/*"}
    else:
        theirs = {"file_path": join(_folder(request), arguments["path"])}
        theirs |= {"content": arguments["content"]} if "content" in arguments else {}
    return ToolCall(part.id, _THEIRS[part.name], msgspec.json.encode(theirs).decode())


def _folder(request: ModelRequest) -> str:
    texts = [request.instructions]
    texts += [part.text for message in request.messages for part in message.parts if isinstance(part, Text)]
    return next((found.group(1) for text in texts if (found := _FOLDER.search(text))), "/work")


def _message(message: Message, folder: str, names: Mapping[str, str]) -> Message:
    parts = [_part(part, folder, names) for part in message.parts]
    return msgspec.structs.replace(message, parts=[part for part in parts if part != Text("")])


def _part(part: Any, folder: str, names: Mapping[str, str]) -> Any:
    if isinstance(part, Text):
        return Text(_ASIDE.sub("", part.text).strip())
    if isinstance(part, ToolCall) and part.name in _OURS:
        return ToolCall(part.id, _OURS[part.name], _our_arguments(part, folder))
    if isinstance(part, ToolResult) and names.get(part.id) == "glob":
        paths = [relpath(line, folder) for line in part.content.splitlines() if line.startswith(f"{folder}/")]
        return msgspec.structs.replace(part, content="\n".join(paths))
    return part


def _our_arguments(call: ToolCall, folder: str) -> str:
    try:
        arguments = msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return call.arguments
    path = arguments.pop("file_path", None)
    return msgspec.json.encode({**arguments, "path": relpath(str(path), folder) if path else "."}).decode()
