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

__all__ = [
    "Attempt",
    "Driver",
    "DriverMissing",
    "Drivers",
    "Finish",
    "Interactive",
    "Launch",
    "Progress",
    "Task",
    "Verdict",
    "Wanted",
    "WantedInput",
    "begin",
    "cancel",
    "retry",
]
