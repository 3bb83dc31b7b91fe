"""Operations: a goal and files, done by a headless command-line agent in a sandbox."""

from retinue.operations.commands import Wanted, WantedInput, begin, cancel, retry
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
from retinue.operations.drivers import Drivers
from retinue.operations.fetching import InstallFailed
from retinue.operations.installing import AGENTS, Installed, drivers_folder, install

__all__ = [
    "AGENTS",
    "Attempt",
    "Driver",
    "DriverMissing",
    "Drivers",
    "Finish",
    "InstallFailed",
    "Installed",
    "Interactive",
    "Launch",
    "Progress",
    "Task",
    "Verdict",
    "Wanted",
    "WantedInput",
    "begin",
    "cancel",
    "drivers_folder",
    "install",
    "retry",
]
