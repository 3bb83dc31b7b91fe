"""`retinue demo --team --crash`: whoever works is killed at four moments of a plan, and another worker goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from retinue.cli.demo_stage import Stage
from retinue.cli.demo_workers import Workers
from retinue.cli.screen import Screen, duration
from retinue.cli.stream import LiveEvent

PLANNING = "while it plans"
TWO_TASKS = "while two tasks run"
EFFECT = "after an effect is recorded"
ANSWER = "while the answer is composed"
MOMENTS = (PLANNING, TWO_TASKS, EFFECT, ANSWER)


@dataclass(slots=True)
class Kill:
    """One kill: when, which runs the worker had, and how long it took until another had them (None: it never did)."""

    moment: str
    at: float
    orphans: set[str] = field(default_factory=set)
    takeover: float | None = None


class TeamCrasher:
    """Watches the events of a request to a team, and kills the worker that has the run which matters at a moment."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._screen = screen
        self._workers = Workers(stage, screen)
        self._holders: dict[str, str] = {}
        self._lead: str | None = None
        self._planned = self._plan_ended = False
        self._wrote: str | None = None
        self.kills: list[Kill] = []

    workers = 3
    """Two moments can come so soon after each other that the worker which comes for the first is not ready yet."""

    def start_workers(self) -> None:
        """Start the workers."""
        self._workers.start(self.workers)

    @property
    def missed(self) -> list[str]:
        """The moments at which nobody was killed, or after which nobody took over."""
        done = {kill.moment for kill in self.kills if kill.takeover is not None}
        return [moment for moment in MOMENTS if moment not in done]

    def slowest(self) -> float | None:
        """Return the longest time from a kill until other workers had all runs of the killed one, in seconds."""
        times = [kill.takeover for kill in self.kills if kill.takeover is not None]
        return max(times, default=None)

    def watch(self, event: LiveEvent) -> None:
        """Look at an event as it comes, and kill when it is time."""
        ends = event.name in ("run_completed", "run_failed")
        if ends and event.payload.get("plan_id"):
            self._plan_ended = True
        elif event.name == "task_plan_created":
            self._planned = True
        elif event.run_id is None:
            return
        elif event.name == "run_started":
            self._taken(event.run_id, str(event.payload["worker_id"]))
        elif ends or event.name == "run_waiting":
            self._holders.pop(event.run_id, None)
        elif event.name == "task_progress" and event.payload.get("name") == "files_write":
            self._wrote = event.run_id
            self._consider(event.run_id)
        elif event.payload.get("phase") == "planning" and not self._planned:
            self._kill(PLANNING, [event.run_id])

    def _taken(self, run_id: str, worker_id: str) -> None:
        now = time.monotonic()
        self._lead = self._lead or run_id
        self._holders[run_id] = worker_id
        for kill in self.kills:
            kill.orphans.discard(run_id)
            if not kill.orphans and kill.takeover is None:
                kill.takeover = now - kill.at
                self._screen.note(f"  ⚡ another worker goes on after {duration(kill.takeover)}", style="yellow")
        self._consider(run_id)

    def _consider(self, run_id: str) -> None:
        """Kill whoever has a run if this is a moment to do so."""
        if run_id == self._wrote:
            self._kill(EFFECT, [run_id])
        elif run_id != self._lead:
            tasks = [one for one in self._holders if one != self._lead]
            if len(tasks) > 1:
                self._kill(TWO_TASKS, tasks)
        elif self._plan_ended:
            self._kill(ANSWER, [run_id])

    def _kill(self, moment: str, runs: Collection[str]) -> None:
        """Kill the worker that has most of these runs, once a moment."""
        alive = Counter(
            self._holders[one] for one in runs if self._holders.get(one, "") not in {"", *self._workers.dead}
        )
        if not alive or any(kill.moment == moment for kill in self.kills):
            return
        [(victim, _)] = alive.most_common(1)
        self._workers.kill(victim, moment)
        orphans = {run_id for run_id, worker_id in self._holders.items() if worker_id == victim}
        self.kills.append(Kill(moment, time.monotonic(), orphans))
