"""Runs: one durable execution of an agent each. The ledger is the journal."""

from retinue.runs.commands import (
    ADVANCE,
    Assignment,
    RunOutcome,
    Started,
    Starter,
    assign,
    cancel,
    delete_agent_runs,
    drop,
    load,
    outcome,
    pause_agent,
    reconcile,
    retry,
    start_run,
    stop_tenant,
    stream_of,
    unblock,
)
from retinue.runs.conversation import Conversation, EndedRun
from retinue.runs.delegations import ChildOutcome, Declined, DelegatedCall, Delegation, Delegations, Opening
from retinue.runs.events import Child, GivenCall, Parent, RunRequested
from retinue.runs.parents import conversation_of, parent_hooks
from retinue.runs.presenting import RunView, present
from retinue.runs.rules import ENDED, RunState, Status, fold
from retinue.runs.views import RunRow, ended_among, find_run, list_runs

__all__ = [
    "ADVANCE",
    "ENDED",
    "Assignment",
    "Child",
    "ChildOutcome",
    "Conversation",
    "Declined",
    "DelegatedCall",
    "Delegation",
    "Delegations",
    "EndedRun",
    "GivenCall",
    "Opening",
    "Parent",
    "RunOutcome",
    "RunRequested",
    "RunRow",
    "RunState",
    "RunView",
    "Started",
    "Starter",
    "Status",
    "assign",
    "cancel",
    "conversation_of",
    "delete_agent_runs",
    "drop",
    "ended_among",
    "find_run",
    "fold",
    "list_runs",
    "load",
    "outcome",
    "parent_hooks",
    "pause_agent",
    "present",
    "reconcile",
    "retry",
    "start_run",
    "stop_tenant",
    "stream_of",
    "unblock",
]
