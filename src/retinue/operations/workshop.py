"""The sandbox of this process, opened at first use; a service of the house."""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from retinue.kernel import Settings
from retinue.sandbox import Probe, Sandbox, choose

log = logging.getLogger(__name__)


class Workshop:
    """Knows this machine's sandbox and how well it is closed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sandbox: Sandbox | None = None
        self._probe: Probe | None = None
        self._opening = asyncio.Lock()

    async def sandbox(self) -> Sandbox:
        """Return the sandbox.

        Raises:
            SandboxRefused: there is none that the settings would have.
        """
        async with self._opening:
            if self._sandbox is None:
                sandbox = await choose(self._settings)
                # Nothing of this process is there yet, and what other living ones hold is left alone.
                if left := await sandbox.reap_all(set()):
                    log.warning("wiped what dead workers left of %d jobs", len(left))
                self._sandbox = sandbox
            return self._sandbox

    async def probe(self) -> Probe:
        """Return how well the sandbox is closed, as it was found when it was opened.

        Raises:
            SandboxRefused: there is none that the settings would have.
        """
        sandbox = await self.sandbox()
        async with self._opening:
            if self._probe is None:
                self._probe = await sandbox.probe()
            return self._probe

    async def close(self) -> None:
        """Let go of the sandbox's connections."""
        if self._sandbox is not None:
            await self._sandbox.close()


def job_of(operation_id: UUID, attempt: int) -> str:
    """Name the job of an attempt: what its folder, its processes and its socket are found by."""
    return f"{operation_id}-{attempt}"
