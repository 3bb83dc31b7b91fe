"""The manifest of the room ``artifacts``."""

from __future__ import annotations

from retinue.artifacts import events, uploads
from retinue.artifacts.accrual import ACCRUE
from retinue.artifacts.api import router, upload_router
from retinue.artifacts.finishing import FINISH
from retinue.artifacts.lifetime import EXPIRE
from retinue.artifacts.loose_blobs import SWEEP
from retinue.artifacts.views import PROJECTIONS
from retinue.artifacts.work import on_accrue, on_expire, on_finish, on_sweep, on_upload_expire
from retinue.kernel import Room
from retinue.web import Streamed

ROOM = Room(
    name="artifacts",
    events=events.ARTIFACT_EVENTS,
    projections=PROJECTIONS,
    routers=(router, upload_router),
    work={
        SWEEP: on_sweep,
        EXPIRE: on_expire,
        ACCRUE: on_accrue,
        FINISH: on_finish,
        uploads.EXPIRE: on_upload_expire,
    },
    streamed={
        "artifact.stored": Streamed("artifact_stored", resource="artifacts"),
        "artifact.held": Streamed("artifact_held", resource="artifacts"),
        "artifact.released": Streamed("artifact_released", resource="artifacts"),
        "artifact.deleted": Streamed("artifact_deleted", resource="artifacts"),
        "artifact.refused": Streamed("artifact_refused", resource="artifacts"),
    },
)
