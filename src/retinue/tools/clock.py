"""The tool ``clock``: what time it is, somewhere."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retinue.tools.calls import Tool, ToolContext, ToolFault
from retinue.tools.labels import Effect, Labels, Trust


async def _now(context: ToolContext, arguments: dict[str, Any]) -> str:
    name: str = arguments.get("zone", "UTC")
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # OSError: a name such as "Europe" is a folder of the zone database; ValueError: a path out of it.
        raise ToolFault(f"There is no time zone '{name[:100]}'. Use a name such as Europe/Berlin or UTC.") from None
    now = context.clock.now().astimezone(zone)
    return f"{now.isoformat(timespec='seconds')} ({now:%A}, {name})"


def clock_tool() -> Tool:
    """Return the tool."""
    return Tool(
        name="clock",
        description="Tell the date, the time and the day of the week in a time zone.",
        parameters={
            "type": "object",
            "properties": {
                "zone": {
                    "type": "string",
                    "description": "An IANA time zone, such as Europe/Berlin.",
                    "default": "UTC",
                }
            },
            "additionalProperties": False,
        },
        labels=Labels(effect=Effect.READ, output=Trust.TRUSTED, private=False, idempotent=True),
        handler=_now,
    )
