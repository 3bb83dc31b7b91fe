"""The workers of a crash demo: some are there, one is killed, another takes over, a new one comes."""

from __future__ import annotations

import subprocess

from retinue.cli.demo_stage import Process, Stage
from retinue.cli.screen import Screen


class Workers:
    """Worker processes by the ids they gave themselves."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self._workers: dict[str, Process] = {}
        self._starting: list[subprocess.Popen[bytes]] = []
        self.dead: set[str] = set()

    def start(self, count: int) -> None:
        """Start so many workers and wait until all are ready."""
        self._starting = [self._stage.begin("worker") for _ in range(count)]
        while self._starting:
            self._welcome()

    def _welcome(self) -> None:
        """Learn the id of the worker that was started first of those that are not known yet."""
        worker = self._stage.when_ready(self._starting.pop(0))
        self._workers[str(worker.said["worker_id"])] = worker

    def kill(self, worker_id: str, moment: str) -> None:
        """Kill a worker, and have a new one come."""
        while worker_id not in self._workers and self._starting:
            self._welcome()
        # A worker that was silent for too long comes back under another id; then all are killed, to be sure.
        victims = [worker_id] if worker_id in self._workers else list(self._workers)
        for victim in victims:
            worker = self._workers.pop(victim)
            self._stage.kill(worker)
            self._screen.note(f"  ⚡ kill -9 {worker.pid}: the worker dies {moment}", style="bold red")
        self.dead.update(victims, [worker_id])
        self._starting += [self._stage.begin("worker") for _ in victims]
