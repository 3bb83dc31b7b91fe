"""What must hold after any fault: the views equal a replay of the events."""

from __future__ import annotations

from typing import Any

from tests.support.running import Person

# Counted by the table over all activations; the fold forgets it at each recorded step.
_NOT_COMPARED = {"attempts"}


async def views_that_differ(person: Person, run_ids: list[str]) -> list[str]:
    """Return where a run's row is not what its own events say."""
    found: list[str] = []
    for run_id in run_ids:
        row = await person.run(run_id)
        folded = await person.call("GET", f"/v1/my/runs/{run_id}?at={row['version']}")
        found += [
            f"{run_id} {field}: {row[field]!r} in the table, {folded[field]!r} in the events"
            for field in row
            if field not in _NOT_COMPARED and row[field] != folded[field]
        ]
    return found


async def conversation_gaps(person: Person, session_id: str) -> list[str]:
    """Return what is wrong with a session's messages: gaps, repetitions, questions without an answer."""
    page = await person.call("GET", f"/v1/my/chat/{session_id}/messages?limit=200")
    messages: list[dict[str, Any]] = page["items"]
    ordinals = [message["ordinal"] for message in messages]
    found = [] if ordinals == list(range(1, len(ordinals) + 1)) else [f"ordinals {ordinals}"]
    asked = [message["run_id"] for message in messages if message["role"] == "user"]
    answered = [message["run_id"] for message in messages if message["role"] == "assistant"]
    if sorted(asked) != sorted(answered):
        found.append(f"{len(asked)} questions, {len(answered)} answers")
    return found
