"""The driver ``gemini``: Gemini CLI (npm package ``@google/gemini-cli``), which speaks Gemini's format.

Its settings are those of the user, which a file ``.gemini/settings.json`` among the files can change in part: its own
strongest settings must belong to root, which nothing in a sandbox does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retinue.operations.driver import Progress, Task
from retinue.operations.drivers.agent import KEY, TURNS, CommandLineAgent, as_file
from retinue.operations.drivers.listening import inner
from retinue.operations.drivers.transcript import Transcript
from retinue.operations.installing import GEMINI

_SETTINGS = ".gemini/settings.json"

# They need a network or a person.
_WITHOUT = ("google_web_search", "web_fetch", "ask_user", "save_memory", "enter_plan_mode", "exit_plan_mode")

# What it asks other models for on the side: summaries, corrections, whether it runs in circles. All of it goes to the
# one model that was asked for; another one might not be allowed.
_ON_THE_SIDE = (
    "classifier",
    "prompt-completion",
    "fast-ack-helper",
    "edit-corrector",
    "summarizer-default",
    "summarizer-shell",
    "loop-detection",
    "loop-detection-double-check",
    "llm-edit-fixer",
    "next-speaker-checker",
    "context-snapshotter",
    "chat-compression-3-pro",
    "chat-compression-3-flash",
    "chat-compression-3.1-flash-lite",
    "chat-compression-2.5-pro",
    "chat-compression-2.5-flash",
    "chat-compression-2.5-flash-lite",
    "chat-compression-default",
    "agent-history-provider-summarizer",
)


class GeminiDriver(CommandLineAgent):
    """Gemini CLI."""

    name = "gemini"
    title = f"Gemini CLI {GEMINI.version}"
    part = GEMINI
    wire = "google"

    def environment(self, task: Task) -> Mapping[str, str]:
        """Return where its models are, and what no settings file can say."""
        return {
            "GOOGLE_GEMINI_BASE_URL": self.gateway(task),
            "GEMINI_API_KEY": KEY,
            "GEMINI_MODEL": self.model(task),
            "GEMINI_CLI_NO_RELAUNCH": "1",
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
            "GEMINI_TELEMETRY_ENABLED": "false",
            # It says on standard error that colours are missing, unless it believes in them.
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }

    def files(self, task: Task) -> Mapping[str, bytes]:
        """Return its user settings."""
        return {_SETTINGS: as_file(_settings(self.model(task), task.parameters.get("turns", TURNS)))}

    def headless(self, task: Task) -> Sequence[str]:
        """Every tool may be used: the sandbox is what holds it."""
        return ["--approval-mode=yolo", "--output-format=stream-json", f"--model={self.model(task)}"]

    def talking(self, task: Task) -> Sequence[str]:
        """It asks before it uses a tool that changes something."""
        return ["--acp", "--approval-mode=default", f"--model={self.model(task)}"]

    def hear(self, transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
        """Take a line of ``--output-format stream-json``."""
        match event.get("type"):
            case "message" if event.get("role") == "assistant" and isinstance(event.get("content"), str):
                return transcript.said(event["content"])
            case "tool_use":
                return transcript.used(event.get("tool_name"), event.get("parameters"))
            case "tool_result" if event.get("status") == "error":
                return transcript.erred(str(inner(event, "error", "message") or event.get("output")))
            case "error":
                # Said of what ends the run, such as too many turns; the result then claims success all the same.
                fatal = event.get("severity") == "error" or "loop" in str(event.get("message")).lower()
                return transcript.erred(str(event.get("message")), fatal=fatal)
            case "result":
                return _ended(transcript, event)
        return []


def _settings(model: str, turns: int) -> dict[str, Any]:
    return {
        "general": {
            "enableAutoUpdate": False,
            "enableAutoUpdateNotification": False,
            "enableNotifications": False,
            "checkpointing": {"enabled": False},
            "sessionRetention": {"enabled": False},
            # The gateway's own failures pass quickly or not at all.
            "maxAttempts": 3,
        },
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "security": {
            "auth": {"selectedType": "gemini-api-key", "enforcedType": "gemini-api-key"},
            "folderTrust": {"enabled": False},
        },
        "model": {"name": model, "maxSessionTurns": turns},
        "modelConfigs": {
            "customAliases": {name: {"extends": "base", "modelConfig": {"model": model}} for name in _ON_THE_SIDE}
        },
        "ide": {"enabled": False},
        "mcp": {"allowed": []},
        "hooksConfig": {"enabled": False},
        "tools": {
            "sandbox": False,
            "exclude": list(_WITHOUT),
            "useRipgrep": False,
            "shell": {"enableInteractiveShell": False, "showColor": False},
        },
        "advanced": {"autoConfigureMemory": False, "ignoreLocalEnv": True},
    }


def _ended(transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
    if event.get("status") == "success":
        return transcript.finished()
    message = inner(event, "error", "message") or transcript.error or "It ended with an error."
    return [*transcript.erred(str(message), fatal=True), *transcript.finished()]
