"""The doors to operations: for people, and for applications that act by a grant."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response

from retinue import artifacts, metering
from retinue.kernel import BadInput, Conflict, NotFound, Scope, parse_id
from retinue.operations import commands
from retinue.operations.policy import policy
from retinue.operations.policy_shapes import OperationPolicyView, WantedOperationPolicy
from retinue.operations.presenting import ArtifactLine, OperationDetail, OperationView, present, present_whole
from retinue.operations.rules import OperationStatus
from retinue.operations.shapes import NewCancellation, NewOperation
from retinue.operations.views import OperationRow, list_operations, visible
from retinue.web import (
    EventStream,
    EventView,
    Exchange,
    Flowing,
    IfMatch,
    Page,
    Router,
    Wanted,
    WantedPage,
    check_match,
    exchange_here,
    history,
    problems,
    scoped,
    set_etag,
    stream_of_one,
)

router = Router(prefix="/v1/operations", tags=["operations"], responses=problems(404))
policy_router = Router(prefix="/v1/tenants/{tenant_id}/operations", tags=["operations"], responses=problems(404))

_MAX_POSITION = 2**63 - 1
_SHOWN = frozenset({"task_started", "task_progress", "task_completed", "message_delta"})


async def _visible(scope: Scope, operation_id: str, *, lock: bool = False) -> OperationRow:
    return await visible(scope, parse_id(operation_id, "operation"), lock=lock)


async def _whole(scope: Scope, row: OperationRow) -> OperationDetail:
    state = await commands.load(scope, row.operation_id)
    kept = await artifacts.list_artifacts(scope, operation_id=row.operation_id, limit=1000)
    bill = metering.bill_view(await metering.bill(scope, row.operation_id))
    return present_whole(row, state, list(reversed(kept)), bill)


@router.post("", status_code=202, responses=problems(402, 409, 410, 429))
async def create(scope: Annotated[Scope, scoped("operations", "create")], body: NewOperation) -> OperationView:
    """Have a headless agent or a program work on files in a sandbox. What it leaves becomes artifacts."""
    operation_id = await commands.begin(scope, body.wanted())
    return present(await visible(scope, operation_id))


@router.get("")
async def list_all(
    scope: Annotated[Scope, scoped("operations", "list")],
    page: WantedPage,
    status: Annotated[OperationStatus | None, Query(description="only of this status")] = None,
    driver: Annotated[str | None, Query(max_length=100, description="only of this driver")] = None,
    grant: Annotated[UUID | None, Query(description="only those of a grant")] = None,
    everybody: Annotated[bool, Query(description="all of the tenant's, for an admin")] = False,
) -> Page[OperationView]:
    """List operations, the newest first: your own, or those of the grant that you act by."""
    if everybody and scope.role != "admin":
        raise BadInput("Only an admin sees everybody's operations.", field="everybody")
    if driver is not None and "\x00" in driver:
        raise BadInput("There is no such driver.", field="driver")
    before = page.after_one(UUID)
    rows = await list_operations(
        scope,
        before=before,
        limit=page.limit + 1,
        everybody=everybody,
        status=status,
        driver=driver,
        grant_id=grant,
    )
    return page.page(rows, present, lambda row: (row.operation_id,))


@router.get("/{operation_id}")
async def show(scope: Annotated[Scope, scoped("operations", "read")], operation_id: str) -> OperationDetail:
    """Show an operation: state, limits, isolation, usage, bill, and of its artifacts the metadata alone."""
    return await _whole(scope, await _visible(scope, operation_id))


@router.post("/{operation_id}/cancel", status_code=202, responses=problems(409))
async def cancel(
    scope: Annotated[Scope, scoped("operations", "cancel")], operation_id: str, body: NewCancellation | None = None
) -> OperationView:
    """End an operation. From the answer on it publishes nothing; its sandbox is dead within a second."""
    row = await _visible(scope, operation_id)
    await commands.cancel(scope, row.operation_id, body.reason if body else "")
    return present(await visible(scope, row.operation_id))


@router.post("/{operation_id}/retry", status_code=202, responses=problems(402, 409, 410, 429))
async def retry(scope: Annotated[Scope, scoped("operations", "retry")], operation_id: str) -> OperationView:
    """Begin an operation anew that did not succeed, as it was asked for."""
    row = await _visible(scope, operation_id)
    await commands.retry(scope, row.operation_id)
    return present(await visible(scope, row.operation_id))


@router.get("/{operation_id}/events")
async def events(
    scope: Annotated[Scope, scoped("operations", "read")], operation_id: str, page: WantedPage
) -> Page[EventView]:
    """List everything that happened to an operation, oldest first."""
    row = await _visible(scope, operation_id)
    return await history(scope, commands.stream_of(row.operation_id), page)


@router.get(
    "/{operation_id}/stream",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "description": "Server-sent events of one operation, and what its agent writes (`message_delta`, without "
            "an id, at most 256 KiB an attempt).",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(410),
    },
)
async def stream(
    request: Request,
    scope: Annotated[Scope, scoped("operations", "read")],
    exchange: Annotated[Exchange, Depends(exchange_here)],
    operation_id: str,
    after: Annotated[
        int | None, Query(ge=0, le=_MAX_POSITION, description="what was recorded after this position comes first")
    ] = None,
) -> Response:
    """Stream an operation as it goes on, for whoever may see it: its events, and what its agent writes.

    Resumes after `after` or `Last-Event-ID` without a gap.
    """
    row = await _visible(scope, operation_id)
    last = request.headers.get("last-event-id")
    if last is not None:
        if not last.isdecimal() or not last.isascii() or len(last) > 19 or int(last) > _MAX_POSITION:
            raise BadInput("Send the id of an event of this stream.", field="Last-Event-ID")
        after = int(last)
    wanted = Wanted(row.operation_id, None, _SHOWN, after)
    return stream_of_one(request, scope, exchange, row.owner_id, wanted, ("operations", "read"))


@router.get("/{operation_id}/artifacts")
async def list_artifacts(
    scope: Annotated[Scope, scoped("artifacts", "list")], operation_id: str, page: WantedPage
) -> Page[ArtifactLine]:
    """List what an operation left and is kept, the newest first."""
    row = await _visible(scope, operation_id)
    before = page.after_one(UUID)
    found = await artifacts.list_artifacts(scope, operation_id=row.operation_id, before=before, limit=page.limit + 1)
    return page.page(found, ArtifactLine.of, lambda one: (one.artifact_id,))


@router.get(
    "/{operation_id}/artifacts/{name:path}", response_class=Response, responses=artifacts.CONTENT | problems(410, 416)
)
async def read_artifact(
    scope: Annotated[Scope, scoped("artifacts", "read")], operation_id: str, name: str, request: Request
) -> Response:
    """Read a file that an operation left, by its name: decrypted, all of it or a range. See `/v1/artifacts`."""
    row = await _visible(scope, operation_id)
    wanted = artifacts.Wanted(operation_id=row.operation_id, kind="output", name=name)
    found = await artifacts.list_artifacts(scope, wanted, limit=1) if "\x00" not in name else []
    if not found:
        raise NotFound("artifact of this operation")
    reply = await artifacts.reply(scope, found[0].artifact_id, request.headers)
    if reply.pieces is None:
        return Response(status_code=reply.status, headers=dict(reply.headers))
    return Flowing(reply.pieces, status_code=reply.status, headers=reply.headers)


@router.delete("/{operation_id}/artifacts", responses=problems(409))
async def delete_artifacts(scope: Annotated[Scope, scoped("artifacts", "delete")], operation_id: str) -> dict[str, int]:
    """Delete everything that an operation left: keys destroyed, blobs removed. What is held stays, and is counted."""
    row = await _visible(scope, operation_id)
    if not row.ended:
        raise Conflict("The operation goes on. Cancel it, or wait for its end.")
    deleted, held = await artifacts.delete_of_operation(scope, row.operation_id)
    return {"deleted": deleted, "held": held}


@policy_router.get("/policy")
async def show_policy(
    scope: Annotated[Scope, scoped("operations", "read")], tenant_id: str, response: Response
) -> OperationPolicyView:
    """What holds for the tenant's operations: limits, isolation, drivers, models, how many at once."""
    if scope.grant_id is not None:
        raise NotFound("policy")
    return await _shown(scope, response)


@policy_router.put("/policy", responses=problems(412))
async def put_policy(
    scope: Annotated[Scope, scoped("operations", "change")],
    tenant_id: str,
    if_match: IfMatch,
    response: Response,
    body: WantedOperationPolicy,
) -> OperationPolicyView:
    """Let another policy hold for operations from now on; fields that are left out get their defaults."""
    found, version = await policy(scope)
    check_match(if_match, version, lambda: OperationPolicyView.of(found, version).model_dump(mode="json"))
    await commands.change_policy(scope, body.policy(), version)
    return await _shown(scope, response)


async def _shown(scope: Scope, response: Response) -> OperationPolicyView:
    found, version = await policy(scope)
    set_etag(response, version)
    return OperationPolicyView.of(found, version)
