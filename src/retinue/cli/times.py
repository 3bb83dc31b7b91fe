"""Times that people write."""

from __future__ import annotations

from datetime import datetime

from retinue.cli.failures import ExitCode, Failure


def expiry(text: str) -> str:
    """Write the time of `--expires` with its offset; without one it is local, as times are shown.

    Raises:
        Failure: it is no time.
    """
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        raise Failure(f"--expires is a time such as 2026-12-31T18:00, not {text!r}.", ExitCode.USAGE) from None
