"""Approvals: ask a person, decide once, expire, and the rules learnt from decisions."""

from retinue.approvals.commands import (
    ApprovalRequest,
    cancel,
    cancel_for_run,
    decide,
    decided,
    edit_checks,
    outcomes,
    request,
    rule_for,
)
from retinue.approvals.events import Resume
from retinue.approvals.rules import Approval, Outcome, Ruling

__all__ = [
    "Approval",
    "ApprovalRequest",
    "Outcome",
    "Resume",
    "Ruling",
    "cancel",
    "cancel_for_run",
    "decide",
    "decided",
    "edit_checks",
    "outcomes",
    "request",
    "rule_for",
]
