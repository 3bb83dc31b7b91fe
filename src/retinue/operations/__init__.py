"""Operations: a goal and files, done by a headless command-line agent in a sandbox."""

from retinue.operations.driver import (
    Attempt,
    Driver,
    DriverMissing,
    Finish,
    Interactive,
    Launch,
    Progress,
    Task,
    Verdict,
)
from retinue.operations.fetching import InstallFailed
from retinue.operations.installing import AGENTS, install

__all__ = [
    "AGENTS",
    "Attempt",
    "Driver",
    "DriverMissing",
    "Finish",
    "InstallFailed",
    "Interactive",
    "Launch",
    "Progress",
    "Task",
    "Verdict",
    "install",
]
