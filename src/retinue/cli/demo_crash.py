"""`retinue demo --crash`: whoever has the run is killed at three moments, and another worker goes on."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from retinue.cli.demo_stage import Process, Stage
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
        self._stage = stage
        self._screen = screen
        self._workers: dict[str, Process] = {}
        self._starting: list[subprocess.Popen[bytes]] = []
        self._holder = ""
        self._approved = False
        self.kills: list[Kill] = []

    def start_workers(self) -> None:
        """Start two workers: one will have the run, the other one stands by."""
        self._starting = [self._stage.begin("worker") for _ in range(2)]
        self._collect()

    def _collect(self) -> None:
        for process in self._starting:
            worker = self._stage.when_ready(process)
            self._workers[str(worker.said["worker_id"])] = worker
        self._starting = []

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
        elif event.name == "approval_decided":
            self._approved = True
        elif event.name == "task_progress" and event.payload.get("name") == "files_write" and self._approved:
            self._kill(_MOMENTS[2])

    def _taken(self, worker_id: str) -> None:
        now = time.monotonic()
        self._holder = worker_id
        if self.kills and self.kills[-1].takeover is None:
            last = self.kills[-1]
            self.kills[-1] = Kill(last.moment, last.at, now - last.at)
            self._screen.note(f"  ⚡ another worker has the run after {duration(now - last.at)}", style="yellow")
        self._kill(_MOMENTS[1] if self._approved else _MOMENTS[0])

    def _kill(self, moment: str) -> None:
        """Kill the worker that has the run, once a moment, and have a new one stand by."""
        if any(kill.moment == moment for kill in self.kills):
            return
        self._collect()
        worker = self._workers.pop(self._holder)
        self._stage.kill(worker)
        self.kills.append(Kill(moment, time.monotonic()))
        self._screen.note(f"  ⚡ kill -9 {worker.pid}: the worker dies {moment}", style="bold red")
        self._starting = [self._stage.begin("worker")]
