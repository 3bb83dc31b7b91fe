"""Artifacts: files under seal, uploaded or left by operations; who may open them, for how long.

An operation's way: ``receive`` each file outside of any transaction, then ``publish`` them all in the one that
completes the operation. What is received and not published goes by ``discard``, or by itself after an hour.
"""

from retinue.artifacts.accrual import accrue
from retinue.artifacts.hooks import GrantTerms, Stored, hooks
from retinue.artifacts.lifetime import delete, delete_of_operation, hold, release
from retinue.artifacts.opening import Damaged, open, sealed_header, take
from retinue.artifacts.quota import storage_used
from retinue.artifacts.receiving import discard, discard_in, publish, receive, unpublished
from retinue.artifacts.replying import CONTENT, reply
from retinue.artifacts.rules import Incoming, Limits, Received, grantee_label
from retinue.artifacts.scanning import Infected
from retinue.artifacts.views import Artifact, Wanted, find, list_artifacts

__all__ = [
    "CONTENT",
    "Artifact",
    "Damaged",
    "GrantTerms",
    "Incoming",
    "Infected",
    "Limits",
    "Received",
    "Stored",
    "Wanted",
    "accrue",
    "delete",
    "delete_of_operation",
    "discard",
    "discard_in",
    "find",
    "grantee_label",
    "hold",
    "hooks",
    "list_artifacts",
    "open",
    "publish",
    "receive",
    "release",
    "reply",
    "sealed_header",
    "storage_used",
    "take",
    "unpublished",
]
