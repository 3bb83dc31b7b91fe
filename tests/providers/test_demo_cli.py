"""The demo plays its part for a command-line agent, through that agent's own tools (those of Qwen Code 0.24)."""

from __future__ import annotations

import msgspec
import pytest

from retinue.providers import Message, Providers, Text, ToolCall, ToolResult, ToolSpec
from tests.providers.stub import ask_for

FOLDER = "/work"
TOOLS = [
    ToolSpec(name, name, {"type": "object", "properties": {}})
    for name in ("glob", "grep_search", "read_file", "write_file", "run_shell_command")
]
ASIDES = [
    "<system-reminder>\nSkills: write files, save and create summaries to memory.md.\n</system-reminder>",
    f"<system-reminder>\nI'm currently working in the directory: {FOLDER}\nHere is the structure.\n</system-reminder>",
]


@pytest.mark.parametrize("apart", [True, False], ids=["asides apart", "one text"])
async def test_it_reads_and_writes_with_the_tools_of_the_agent(providers: Providers, apart: bool) -> None:
    files = {
        f"{FOLDER}/notes/ferry.md": "# Ferry\nThe ferry leaves at nine.",
        f"{FOLDER}/zoo.txt": "Animals live here.",
    }
    request = ask_for("unused", "demo:assistant", tools=TOOLS)
    texts = [*ASIDES, "When does the ferry leave? Write a summary to out.md"]
    request.messages[:] = [Message("user", [Text(one) for one in (texts if apart else ["".join(texts)])])]
    called: list[str] = []
    for _ in range(6):
        answer = await providers.ask(request)
        if not answer.calls:
            break
        request.messages.append(Message("assistant", list(answer.parts)))
        request.messages.append(Message("user", [_serve(call, files) for call in answer.calls]))
        called += [call.name for call in answer.calls]
    assert called == ["glob", "read_file", "read_file", "write_file"]
    assert "The ferry leaves at nine." in files[f"{FOLDER}/out.md"]
    assert "out.md is written." in answer.text
    assert answer.text.startswith("[demo]")


def _serve(call: ToolCall, files: dict[str, str]) -> ToolResult:
    arguments = msgspec.json.decode(call.arguments)
    if call.name == "glob":
        listing = "\n".join(files)
        content = f'Found {len(files)} file(s) matching "{arguments["pattern"]}" in the workspace:\n---\n{listing}'
    elif call.name == "read_file":
        content = files[arguments["file_path"]]
    else:
        files[arguments["file_path"]] = arguments["content"]
        content = "Successfully created the file."
    return ToolResult(call.id, call.name, content)
