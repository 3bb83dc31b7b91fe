"""`retinue demo --crash`: whoever has the run is killed at three moments, and another worker goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from retinue.cli.demo_stage import Stage
from retinue.cli.demo_workers import Workers
from retinue.cli.screen import Screen, duration
from retinue.cli.stream import LiveEvent

_MOMENTS = ("during a model call", "while it resumes after the approval", "after an effect is recorded")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: when, and how long it took until another worker had the run (None: it never did)."""

    moment: str
    at: float
    takeover: float | None = None


class Crasher:
    """Watches a run's events and kills the worker that has the run: two are there, one takes over, a new one comes."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._screen = screen
        self._workers = Workers(stage, screen)
        self._holder = ""
        self._waited = False
        self._effect_recorded = False
        self.kills: list[Kill] = []

    workers = 2

    def start_workers(self) -> None:
        """Start two workers: one will have the run, the other one stands by."""
        self._workers.start(self.workers)

    @property
    def missed(self) -> list[str]:
        """The moments at which nobody was killed, or after which nobody took over."""
        done = {kill.moment for kill in self.kills if kill.takeover is not None}
        return [moment for moment in _MOMENTS if moment not in done]

    def slowest(self) -> float | None:
        """Return the longest time from a kill until another worker had the run, in seconds."""
        times = [kill.takeover for kill in self.kills if kill.takeover is not None]
        return max(times, default=None)

    def watch(self, event: LiveEvent) -> None:
        """Look at an event of the run as it comes, and kill when it is time."""
        if event.name == "run_started":
            self._taken(str(event.payload["worker_id"]))
        elif event.name == "run_waiting":
            self._waited = True
        elif event.name == "task_progress" and event.payload.get("name") == "files_write":
            self._effect_recorded = True
            if self._holder not in self._workers.dead:  # else the next one, who takes over in a moment, comes to it
                self._kill(_MOMENTS[2])

    def _taken(self, worker_id: str) -> None:
        now = time.monotonic()
        self._holder = worker_id
        if self.kills and self.kills[-1].takeover is None:
            last = self.kills[-1]
            self.kills[-1] = Kill(last.moment, last.at, now - last.at)
            self._screen.note(f"  ⚡ another worker has the run after {duration(now - last.at)}", style="yellow")
        self._kill(_MOMENTS[2 if self._effect_recorded else 1 if self._waited else 0])

    def _kill(self, moment: str) -> None:
        """Kill the worker that has the run, once a moment, and have a new one stand by."""
        if any(kill.moment == moment for kill in self.kills):
            return
        self._workers.kill(self._holder, moment)
        self.kills.append(Kill(moment, time.monotonic()))
