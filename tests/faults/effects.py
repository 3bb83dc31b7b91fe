"""The plugin with countable effects: its settings for a server, and what it left behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

PLUGIN = Path(__file__).parent / "plugin"
ALLOWED = {"note_once": "allow", "note_blindly": "allow"}
TOOLS = list(ALLOWED)


def effect_settings(file: Path, pause: float = 0.0, **more: str) -> dict[str, str]:
    """Return the environment of a process that has the plugin.

    Args:
        file: gets a line for each effect.
        pause: seconds between an effect and the tool's return.
    """
    file.touch()
    return {
        "PYTHONPATH": str(PLUGIN),
        "TEST_EFFECTS_FILE": str(file),
        "TEST_EFFECTS_PAUSE": str(pause),
        **more,
    }


def effects(file: Path) -> Counter[str]:
    """Count each effect, by kind, idempotency key and text."""
    return Counter(file.read_text().splitlines())


def problems(file: Path, runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Hold what happened outside against what the runs' events say; return what does not fit, nothing when all does.

    Args:
        runs: the events of every run, by its id.
    """
    found: list[str] = []
    happened = effects(file)
    found += [f"{count} times: {effect}" for effect, count in happened.items() if count > 1]
    keys = {effect.split()[1] for effect in happened}
    for run_id, events in runs.items():
        steps = [event["data"]["step"] for event in events if event["type"] == "model.responded"]
        found += [f"run {run_id}: step {step} recorded twice" for step, n in Counter(steps).items() if n > 1]
        completed = [event["data"]["call_id"] for event in events if event["type"] == "tool.completed"]
        found += [f"run {run_id}: call {call} completed twice" for call, n in Counter(completed).items() if n > 1]
        for event in events:
            if event["type"] == "tool.completed" and event["data"]["tool"] in TOOLS and not event["data"].get("failed"):
                key = f"{run_id}:{event['data']['call_id']}"
                if key not in keys:
                    found.append(f"run {run_id}: {key} is recorded as done and did not happen")
    return found
