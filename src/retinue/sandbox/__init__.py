"""The sandbox: where a program that nobody trusts runs, and how well that place is closed."""

from retinue.sandbox.bubblewrap import Bubblewrap
from retinue.sandbox.choosing import choose
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
    Probe,
    Reason,
    Sandbox,
    SandboxFailed,
    SandboxRefused,
    Usage,
    Workspace,
)
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
    "Level",
    "Limits",
    "OnOutput",
    "Probe",
    "Reason",
    "Sandbox",
    "SandboxFailed",
    "SandboxRefused",
    "Skipped",
    "Taking",
    "Usage",
    "Workspace",
    "choose",
    "collect",
]
