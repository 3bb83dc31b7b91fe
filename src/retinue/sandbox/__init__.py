"""The sandbox: where a program that nobody trusts runs, and how well that place is closed."""

from retinue.sandbox.bubblewrap import Bubblewrap
from retinue.sandbox.choosing import NoSandbox, candidates, choose
from retinue.sandbox.collecting import Collection, Found, Skipped, Taking, collect
from retinue.sandbox.jobs import (
    GATEWAY_PORT,
    HOME,
    WORK,
    Ended,
    Finding,
    Interactive,
    Job,
    Limits,
    OnOutput,
    OnUsage,
    Probe,
    Reason,
    Sandbox,
    SandboxFailed,
    SandboxRefused,
    Stream,
    Usage,
    Workspace,
)
from retinue.sandbox.landlock import Landlock
from retinue.sandbox.levels import Level

__all__ = [
    "GATEWAY_PORT",
    "HOME",
    "WORK",
    "Bubblewrap",
    "Collection",
    "Ended",
    "Finding",
    "Found",
    "Interactive",
    "Job",
    "Landlock",
    "Level",
    "Limits",
    "NoSandbox",
    "OnOutput",
    "OnUsage",
    "Probe",
    "Reason",
    "Sandbox",
    "SandboxFailed",
    "SandboxRefused",
    "Skipped",
    "Stream",
    "Taking",
    "Usage",
    "Workspace",
    "candidates",
    "choose",
    "collect",
]
