"""Chooses the sandbox of this machine, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping

from retinue.kernel import Settings
from retinue.sandbox.bubblewrap import Bubblewrap
from retinue.sandbox.jobs import (
    Ended,
    Finding,
    Interactive,
    Job,
    Limits,
    OnOutput,
    OnUsage,
    Probe,
    Sandbox,
    SandboxRefused,
    Workspace,
)
from retinue.sandbox.landlock import Landlock
from retinue.sandbox.levels import Level


class NoSandbox(Sandbox):
    """Level D: it runs nothing, and says why."""

    name = "none"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def probe(self) -> Probe:
        """Nothing is here."""
        return Probe(Level.D, (Finding("sandbox", False, self._reason),))

    async def prepare(self, job_id: str, limits: Limits) -> Workspace:
        """Refuse."""
        raise SandboxRefused(self._reason)

    async def run(self, job: Job, on_output: OnOutput, on_usage: OnUsage | None = None) -> Ended:
        """Refuse."""
        raise SandboxRefused(self._reason)

    async def interactive(
        self, job: Job, on_error: OnOutput | None = None, on_usage: OnUsage | None = None
    ) -> Interactive:
        """Refuse."""
        raise SandboxRefused(self._reason)

    async def wipe(self, workspace: Workspace) -> None:
        """Nothing was made."""

    async def reap(self, job_id: str) -> None:
        """Nothing was run."""

    async def reap_all(self, alive: set[str]) -> list[str]:
        """Nothing was run."""
        return []


def candidates(settings: Settings) -> Mapping[str, Sandbox]:
    """Return the sandboxes that the settings allow, the one to be tried first in front. Raises SandboxRefused."""
    folder = settings.data / "sandboxes"
    if settings.sandbox == "none":
        return {"none": NoSandbox("Sandboxes are switched off (RETINUE_SANDBOX=none).")}
    if settings.sandbox in ("docker", "kubernetes"):
        return {settings.sandbox: _engine(settings)}
    local: dict[str, Sandbox] = {"bubblewrap": Bubblewrap(folder), "landlock": Landlock(folder)}
    return local if settings.sandbox == "auto" else {settings.sandbox: local[settings.sandbox]}


def _engine(settings: Settings) -> Sandbox:
    """Return the sandbox of a container engine: its client is an extra that not everybody installs."""
    try:
        if settings.sandbox == "docker":
            from retinue.sandbox.docker import Docker

            return Docker.from_settings(settings)
        from retinue.sandbox.kubernetes import Kubernetes

        return Kubernetes.from_settings(settings)
    except ImportError as missing:
        raise SandboxRefused(f"Install retinue[{settings.sandbox}]: {missing}.") from missing


async def choose(settings: Settings) -> Sandbox:
    """Return the best sandbox that the settings allow and that works on this machine, after trying it.

    Raises SandboxRefused if none reaches ``RETINUE_SANDBOX_MINIMUM``; the text says what is missing.
    """
    minimum = Level(settings.sandbox_minimum)
    complaints: list[str] = []
    for name, sandbox in candidates(settings).items():
        probe = await sandbox.probe()
        if probe.level.reaches(minimum):
            return sandbox
        complaints.append(f"{name} reaches level {probe.level} ({probe.missing or 'by its nature'})")
        await sandbox.close()
    raise SandboxRefused(
        f"Level {minimum} is the least that is allowed (RETINUE_SANDBOX_MINIMUM); {'; '.join(complaints)}. "
        "On the server's machine, `retinue doctor sandbox` says what to do."
    )
