"""Chooses the sandbox of this machine, as the settings say."""

from __future__ import annotations

from retinue.kernel import Settings
from retinue.sandbox.bubblewrap import Bubblewrap
from retinue.sandbox.jobs import Sandbox, SandboxRefused
from retinue.sandbox.levels import Level


async def choose(settings: Settings) -> Sandbox:
    """Return the sandbox that the settings name, after trying it; ``auto`` takes the best there is.

    Raises SandboxRefused if what is there does not reach ``RETINUE_SANDBOX_MINIMUM``; the text says what is missing.
    """
    sandbox = Bubblewrap(settings.data / "sandboxes")
    probe = await sandbox.probe()
    minimum = Level(settings.sandbox_minimum)
    if not probe.level.reaches(minimum):
        raise SandboxRefused(f"This machine reaches level {probe.level}, {minimum} is asked for: {probe.missing}")
    return sandbox
