"""Approvals: ask a person, decide once, expire, and the rules learnt from decisions."""

from retinue.approvals.commands import ApprovalRequest, cancel_for_run, decide, outcomes, request, rule_for
from retinue.approvals.events import Resume
from retinue.approvals.rules import Outcome, Ruling

__all__ = [
    "ApprovalRequest",
    "Outcome",
    "Resume",
    "Ruling",
    "cancel_for_run",
    "decide",
    "outcomes",
    "request",
    "rule_for",
]
