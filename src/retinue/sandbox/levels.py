"""Levels of isolation: what holds a program, from the strongest to none."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """How well a sandbox holds a program (decision record 0015).

    A: namespaces, a control group, a volume of limited size and a user id of its own.
    B: namespaces, resource limits, and a watcher that ends what goes over.
    C: Landlock, seccomp and resource limits; no network at all.
    D: nothing holds, so nothing is run.
    """

    A = "A"
    B = "B"
    C = "C"
    D = "D"

    def reaches(self, minimum: Level) -> bool:
        """Tell whether this level is as good as ``minimum``, or better."""
        return self.value <= minimum.value
