"""The manifest of the room."""

from __future__ import annotations

from retinue.approvals import views
from retinue.approvals.api import router
from retinue.approvals.commands import EXPIRE
from retinue.approvals.events import ApprovalDecided, ApprovalRequested, RuleLearnt, RuleRemoved
from retinue.approvals.shapes import decided_payload, required_payload
from retinue.approvals.work import on_expire
from retinue.kernel import Room
from retinue.web import Streamed

ROOM = Room(
    name="approvals",
    events=(ApprovalRequested, ApprovalDecided, RuleLearnt, RuleRemoved),
    projections=(views.projection,),
    routers=(router,),
    work={EXPIRE: on_expire},
    streamed={
        "approval.requested": Streamed("approval_required", required_payload, resource="approvals"),
        "approval.decided": Streamed("approval_decided", decided_payload, resource="approvals"),
    },
)
