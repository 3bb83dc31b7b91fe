"""How a plan is written: from the arguments of a model's call, from memory, or, when time is up, by a simple rule."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from retinue.agents import Agent
from retinue.kernel import Scope, nanos
from retinue.planning.graph import OnFailure, Origin, Plan, Retry, Risk, Task

_WORD = re.compile(r"\w+(?:[./-]\w+)*")
# Words that do not change what is asked for.
_FILLERS = frozenset(
    ("a", "an", "the", "please", "could", "can", "would", "you", "i", "we", "me", "us", "my", "our", "to", "of", "for")
)
_LONGEST_TITLE = 80
_MOST_IN_SEQUENCE = 3


class DraftTask(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A task as a model writes it; see the schema in ``orchestrator``."""

    id: str
    title: str
    agent: str
    instructions: str
    depends_on: tuple[str, ...] = ()
    expected: str = ""
    risk: Risk = "low"
    confidence: float | None = None
    tokens: int | None = None
    cost: float | None = None


class Draft(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The arguments of a call of the tool ``plan``."""

    tasks: tuple[DraftTask, ...]
    title: str = ""
    on_failure: OnFailure | None = None


def read_draft(arguments: Mapping[str, Any]) -> Draft:
    """Read a call's arguments.

    Raises:
        msgspec.ValidationError: they are no plan; says where.
    """
    return msgspec.convert(dict(arguments), Draft, strict=True)


def task_of(draft: DraftTask) -> Task:
    """Return a drafted task as a plan has it. Tries that fail are made once more: models and networks stumble."""
    return Task(
        id=draft.id,
        title=draft.title,
        agent=draft.agent,
        instructions=draft.instructions,
        depends_on=tuple(dict.fromkeys(draft.depends_on)),
        expected=draft.expected,
        risk=draft.risk,
        confidence=None if draft.confidence is None else min(max(draft.confidence, 0.0), 1.0),
        tokens=draft.tokens,
        cost=None if draft.cost is None else nanos(Decimal(str(max(draft.cost, 0.0)))),
        retry=Retry(attempts=2),
    )


def title_of(request: str) -> str:
    """Return the beginning of a request, as a title."""
    first = " ".join(request.split())
    return first if len(first) <= _LONGEST_TITLE else first[: _LONGEST_TITLE - 1].rsplit(" ", 1)[0] + "…"


def sequence(request: str, team: Sequence[Agent]) -> dict[str, Any] | None:
    """Return the arguments of the plain plan that is taken when planning takes too long; None without a team.

    Those whose names and skills share words with the request work one after the other, each going on from the results
    before it; when nobody does, the first of the team works alone.
    """
    words = set(meaning(request))

    def shared(agent: Agent) -> int:
        skills = f"{agent.name} {agent.definition.description or agent.definition.instructions}"
        return len(words & set(meaning(skills)))

    fitting = sorted((agent for agent in team if shared(agent)), key=lambda agent: -shared(agent))
    chosen = fitting[:_MOST_IN_SEQUENCE] or list(team[:1])
    if not chosen:
        return None
    tasks = [
        {
            "id": f"step_{number}",
            "title": f"{agent.name}: {title_of(request)}",
            "agent": agent.name,
            "instructions": "Do the part of this request that you are good at; others do the rest.",
            "depends_on": [f"step_{number - 1}"] if number > 1 else [],
        }
        for number, agent in enumerate(chosen, start=1)
    ]
    return {"title": title_of(request), "tasks": tasks}


def meaning(text: str) -> list[str]:
    """Return the words that matter of a text: the same for requests that are all but equal."""
    return [word for found in _WORD.findall(text) if (word := found.casefold()) not in _FILLERS]


def digest_of(request: str, team: Sequence[Agent]) -> bytes:
    """Name a request to a team: equal for requests that differ only in case, marks and filling words.

    Names of files and numbers are words that matter, so a plan is never taken for another file. A team that changed is
    another team.
    """
    who = sorted(f"{agent.agent_id}:{agent.version}" for agent in team)
    return hashlib.sha256("\n".join([*meaning(request), "", *who]).encode()).digest()


async def remember(scope: Scope, digest: bytes, draft: Draft, seconds: int) -> None:
    """Keep a plan for requests that are all but equal."""
    now = scope.clock.now()
    await scope.queries.execute(
        "INSERT INTO plan_drafts (tenant_id, owner_id, digest, draft, expires_at) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (tenant_id, owner_id, digest) DO UPDATE SET draft = $4, expires_at = $5",
        scope.tenant_id,
        scope.owner(),
        digest,
        msgspec.json.encode(draft).decode(),
        now + timedelta(seconds=seconds),
    )
    await scope.queries.execute("DELETE FROM plan_drafts WHERE expires_at <= $1", now)


async def recall(scope: Scope, digest: bytes) -> dict[str, Any] | None:
    """Return the arguments of a plan that was kept for such a request."""
    found = await scope.queries.fetchval(
        "SELECT draft FROM plan_drafts WHERE owner_id = $1 AND digest = $2 AND expires_at > $3",
        scope.owner(),
        digest,
        scope.clock.now(),
    )
    return None if found is None else dict(msgspec.json.decode(found))


def origin_of(call_id: str) -> Origin:
    """Tell from the id of the call who wrote the plan."""
    match call_id.rpartition("-")[2]:
        case "recalled":
            return Origin(kind="cache")
        case "fallback":
            return Origin(kind="fallback")
        case _:
            return Origin(kind="model")


def plan_of(draft: Draft, *, request: str, origin: Origin, on_failure: OnFailure) -> Plan:
    """Return the plan that a draft stands for."""
    return Plan(
        title=draft.title or title_of(request),
        tasks=tuple(map(task_of, draft.tasks)),
        origin=origin,
        request=request,
        on_failure=draft.on_failure or on_failure,
    )
