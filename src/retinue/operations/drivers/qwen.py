"""The driver ``qwen``: Qwen Code (npm package ``@qwen-code/qwen-code``), which speaks OpenAI's format.

Its system settings are the strongest it knows. So nothing that lies among the files, such as ``.qwen/settings.json``,
sends its calls elsewhere, starts hooks, or switches on what is switched off here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.operations.driver import Progress, Task
from retinue.operations.drivers.agent import KEY, TURNS, CommandLineAgent, as_file, briefing
from retinue.operations.drivers.listening import inner
from retinue.operations.drivers.transcript import Transcript
from retinue.operations.installing import QWEN

_SETTINGS = ".retinue/qwen.json"

# They need a network, a person, or a program that goes on afterwards.
_WITHOUT = (
    "web_fetch",
    "cron_create",
    "cron_list",
    "cron_delete",
    "loop_wakeup",
    "monitor",
    "enter_worktree",
    "exit_worktree",
    "record_artifact",
    "send_message",
    "list_agents",
    "report_findings",
    "get_goal",
    "update_goal",
    "ask_user_question",
)


_ELSEWHERE = "Do the task with which your instructions end."

_INNER_AT = re.compile(r"[^\s\\]@")

# What the system takes as one argument.
_LONGEST_ARGUMENT = 120_000


def _beside(task: Task) -> bool:
    return bool(_INNER_AT.search(task.goal)) and len(briefing(task).encode()) < _LONGEST_ARGUMENT


class QwenDriver(CommandLineAgent):
    """Qwen Code."""

    name = "qwen"
    title = f"Qwen Code {QWEN.version}"
    part = QWEN
    wire = "openai"

    def environment(self, task: Task) -> Mapping[str, str]:
        """Return where its models are, and what no settings file can say."""
        return {
            "OPENAI_BASE_URL": f"{self.gateway(task)}/v1",
            "OPENAI_API_KEY": KEY,
            "OPENAI_MODEL": self.model(task),
            "QWEN_CODE_SYSTEM_SETTINGS_PATH": f"{task.home}/{_SETTINGS}",
            "QWEN_CODE_NO_RELAUNCH": "1",
            "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
            "QWEN_CODE_DISABLE_CRON": "1",
            "QWEN_CODE_DISABLE_WORKFLOWS": "1",
            "QWEN_CODE_DISABLE_PRECONNECT": "1",
            "QWEN_DISABLE_AUTO_TITLE": "1",
            "QWEN_TELEMETRY_ENABLED": "false",
            "QWEN_USAGE_STATISTICS_ENABLED": "false",
        }

    def files(self, task: Task) -> Mapping[str, bytes]:
        """Return its system settings."""
        return {_SETTINGS: as_file(_settings(self.model(task), task.parameters.get("turns", TURNS)))}

    def words(self, task: Task) -> str:
        """Return the task, or where it is: in ``a@b.example`` it would take the end for a file, and add a space."""
        return _ELSEWHERE if _beside(task) else briefing(task)

    def headless(self, task: Task) -> Sequence[str]:
        """Every tool may be used: the sandbox is what holds it."""
        arguments = ["--approval-mode=yolo", "--output-format=stream-json", "--chat-recording=false"]
        if _beside(task):
            arguments.append(f"--append-system-prompt={briefing(task)}")
        return [*arguments, "--auth-type=openai", f"--model={self.model(task)}"]

    def talking(self, task: Task) -> Sequence[str]:
        """It asks before it uses a tool that changes something."""
        return ["--acp", "--approval-mode=default", "--auth-type=openai", f"--model={self.model(task)}"]

    def hear(self, transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
        """Take a line of ``--output-format stream-json``."""
        match event.get("type"):
            case "assistant":
                return _said(transcript, event)
            case "user":
                return _returned(transcript, event)
            case "result":
                return _ended(transcript, event)
        return []


def _settings(model: str, turns: int) -> dict[str, Any]:
    return {
        "$version": 3,
        "general": {
            "enableAutoUpdate": False,
            "chatRecording": False,
            "gitCoAuthor": {"commit": False, "pr": False},
        },
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "security": {
            "auth": {"selectedType": "openai", "enforcedType": "openai"},
            "folderTrust": {"enabled": False},
        },
        "memory": {
            "enableManagedAutoMemory": False,
            "enableManagedAutoDream": False,
            "enableAutoSkill": False,
        },
        "model": {
            "name": model,
            "maxSessionTurns": turns,
            # It takes eight files that are read one after the other for a loop. Equal calls are found all the same.
            "skipLoopDetection": True,
            "enableOpenAILogging": False,
            # A hanging provider is ended by the gateway; the operation has its own time.
            "generationConfig": {"maxRetries": 2},
        },
        "ui": {"enableFollowupSuggestions": False},
        "ide": {"enabled": False},
        "mcp": {"allowed": []},
        "disableAllHooks": True,
        "tools": {"sandbox": False, "disabled": list(_WITHOUT), "shell": {"enableInteractiveShell": False}},
    }


def _blocks(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = inner(event, "message", "content")
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []


def _said(transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
    told: list[Progress] = []
    # What a helper of the agent says is not its own answer.
    own = event.get("parent_tool_use_id") is None
    for block in _blocks(event):
        if block.get("type") == "tool_use":
            told += transcript.used(block.get("name"), block.get("input"))
        elif block.get("type") == "thinking" and isinstance(block.get("thinking"), str):
            told.append(Progress(text=block["thinking"][:2000] + "\n", kind="thought"))
        elif block.get("type") == "text" and isinstance(block.get("text"), str) and own:
            told += transcript.said(block["text"] + "\n")
    return told


def _returned(transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
    told: list[Progress] = []
    for block in _blocks(event):
        if block.get("type") == "tool_result" and block.get("is_error"):
            told += transcript.erred(str(block.get("content")))
    return told


def _ended(transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
    if event.get("is_error"):
        message = inner(event, "error", "message") or event.get("result") or event.get("subtype")
        return [*transcript.erred(str(message), fatal=True), *transcript.finished()]
    if isinstance(event.get("result"), str):
        transcript.answer = event["result"][:16_000]
    return transcript.finished()
