"""A change for the processes of a test: a callback that is not taken at once is dead."""

from __future__ import annotations


def no_second_try() -> None:
    """Leave out the pauses, which take 16 hours together."""
    from retinue.workflows import callbacks

    callbacks.PAUSES = ()
