"""Runs: one durable execution of an agent each. The ledger is the journal."""

from retinue.runs.commands import (
    ADVANCE,
    Started,
    Starter,
    cancel,
    delete_agent_runs,
    drop,
    load,
    pause_agent,
    reconcile,
    retry,
    start_run,
    stop_tenant,
    stream_of,
    unblock,
)
from retinue.runs.conversation import Conversation, EndedRun
from retinue.runs.events import Child, GivenCall, Parent
from retinue.runs.presenting import RunView, present
from retinue.runs.rules import ENDED, RunState, Status, fold
from retinue.runs.views import RunRow, find_run, list_runs

__all__ = [
    "ADVANCE",
    "ENDED",
    "Child",
    "Conversation",
    "EndedRun",
    "GivenCall",
    "Parent",
    "RunRow",
    "RunState",
    "RunView",
    "Started",
    "Starter",
    "Status",
    "cancel",
    "delete_agent_runs",
    "drop",
    "find_run",
    "fold",
    "list_runs",
    "load",
    "pause_agent",
    "present",
    "reconcile",
    "retry",
    "start_run",
    "stop_tenant",
    "stream_of",
    "unblock",
]
