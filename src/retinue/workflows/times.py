"""Times of a cron line in a time zone. Pure: the present comes from outside."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from retinue.kernel import BadInput

_FIELDS = 5


class CronLine:
    """A cron line of five fields.

    Where clocks are put forward, times that do not exist are moved to the next that does; where they are put back, a
    time that comes twice is taken once (as Debian's cron does).

    Raises:
        BadInput: it is no cron line, never comes, or the time zone is unknown; ``field`` is ``cron`` or ``timezone``.
    """

    def __init__(self, line: str, timezone: str) -> None:
        self.line = line
        self._zone = _zone(timezone)
        if len(line.split()) != _FIELDS:
            raise BadInput("A cron line has five fields: minute, hour, day, month, weekday.", field="cron")
        self.after(datetime(2026, 1, 1, tzinfo=UTC))

    def after(self, moment: datetime) -> datetime:
        """Return the first time after ``moment``, in UTC.

        Raises:
            BadInput: there is none in the next 50 years.
        """
        try:
            found: datetime = next(CronSim(self.line, moment.astimezone(self._zone)))
        except CronSimError as error:
            raise BadInput(f"{self.line!r} is no cron line: {error}.", field="cron") from None
        except (StopIteration, ValueError, OverflowError):
            raise BadInput(f"The time {self.line!r} never comes.", field="cron") from None
        return found.astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; a path; a folder
        raise BadInput(
            f"There is no time zone {name[:100]!r}; write one such as Europe/Berlin.", field="timezone"
        ) from None
