"""The doors to HTTP: artifacts, their content, and uploads (tus 1.0.0)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Query, Request
from starlette.responses import Response

from retinue.artifacts import lifetime, opening, pieces, replying, sealed_file, serving, tus, uploads, views
from retinue.artifacts.finishing import terms_of
from retinue.artifacts.hooks import limits_of
from retinue.artifacts.receiving import discard, publish, receive
from retinue.artifacts.rules import Incoming
from retinue.artifacts.shapes import ArtifactView, NewHold, UploadView, upload_view_of, view_of
from retinue.artifacts.views import Artifact, Wanted
from retinue.kernel import Scope, Services, Settings, least, parse_id
from retinue.web import (
    EventView,
    Flowing,
    Page,
    Passage,
    Router,
    WantedPage,
    history,
    passing,
    problems,
    public,
    scoped,
    services_of,
    stream_body,
)

router = Router(prefix="/v1/artifacts", tags=["artifacts"])
upload_router = Router(prefix="/v1/uploads", tags=["uploads"])

_FINISH_SECONDS = 20.0
_LOOK_SECONDS = 0.05
_LONGEST = 2**31 - 1

_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": replying.BYTES}}}


def _header(name: str, description: str, *, required: bool = True, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": {"type": "string", **schema},
    }


_VERSION = _header("Tus-Resumable", "the version of the protocol", enum=[tus.VERSION])
_SIZE = "^[0-9]{1,18}$"
_CHECKSUM = _header(
    "Upload-Checksum",
    "of the bytes of this request: `sha256` or `sha1`, a space, and base64",
    required=False,
    pattern="^sha(1|256) [A-Za-z0-9+/]+=*$",
)
_NEW_UPLOAD: dict[str, Any] = {
    "requestBody": {"content": {tus.MEDIA_TYPE: replying.BYTES}},
    "parameters": [
        _VERSION,
        _header("Upload-Length", "bytes of the whole file", pattern=_SIZE),
        _header(
            "Upload-Metadata",
            "pairs of a key and base64 of UTF-8, with commas between: `filename`, and where wanted `version_of` and "
            "`retention_seconds`",
            pattern="^filename [A-Za-z0-9+/]+=*$",
        ),
        _CHECKSUM,
    ],
}
_PIECE: dict[str, Any] = {
    "requestBody": {"required": True, "content": {tus.MEDIA_TYPE: replying.BYTES}},
    "parameters": [_VERSION, _header("Upload-Offset", "where these bytes begin", pattern=_SIZE), _CHECKSUM],
}
_TUS: dict[str, Any] = {"parameters": [_VERSION]}
_SEALED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The sealed file", "content": {sealed_file.MEDIA_TYPE: replying.BYTES}}
}

Name = Annotated[str, Query(description="what the file is called: any text of 1 to 255 bytes")]
Retention = Annotated[
    int | None,
    Query(ge=1, le=_LONGEST, description="seconds it is kept; by default, and at most, as the tenant's limits say"),
]
VersionOf = Annotated[str | None, Query(description="the name of the file this is the next version of")]


class _Given:
    """What a list is asked for, as it was sent."""

    def __init__(
        self,
        operation_id: Annotated[UUID | None, Query(description="left by this operation")] = None,
        grant_id: Annotated[UUID | None, Query(description="under this grant")] = None,
        kind: Annotated[Literal["upload", "output"] | None, Query()] = None,
        name: Annotated[str | None, Query(max_length=255, description="of exactly this name")] = None,
        mine: Annotated[bool, Query(description="only your own; an admin sees those of others, too")] = False,
    ) -> None:
        self.wanted = Wanted(operation_id=operation_id, grant_id=grant_id, kind=kind, name=name, mine=mine)


async def _page(scope: Scope, wanted: Wanted, page: WantedPage) -> Page[ArtifactView]:
    before = page.after_one(UUID)
    rows = await views.list_artifacts(scope, wanted, before=before, limit=page.limit + 1)
    return page.page(rows, view_of, lambda one: (one.artifact_id,))


@router.get("")
async def list_all(
    scope: Annotated[Scope, scoped("artifacts", "list")], given: Annotated[_Given, Depends()], page: WantedPage
) -> Page[ArtifactView]:
    """List artifacts, the newest first: your own; an admin's view has all of the tenant's."""
    return await _page(scope, given.wanted, page)


@router.post(
    "", status_code=201, response_model=ArtifactView, openapi_extra=_BODY, responses=problems(400, 409, 413, 507)
)
async def create(
    passage: Annotated[Passage, passing("artifacts", "create")],
    request: Request,
    name: Name,
    version_of: VersionOf = None,
    retention_seconds: Retention = None,
) -> Response:
    """Store a file, which is the body of the request. A large one is better sent in pieces: see `/v1/uploads`."""
    async with passage.scope() as scope:
        limits, terms = await limits_of(scope, scope.owner()), await terms_of(scope)
        announced = request.headers.get("content-length", "")
        incoming = Incoming(
            owner_id=scope.owner(),
            grant_id=scope.grant_id,
            name=name,
            kind="upload",
            size_hint=int(announced) if announced.isdecimal() and len(announced) < 18 else None,
            version_of=version_of,
            retention_seconds=least(retention_seconds, terms.retention_seconds),
            expires_at=terms.expires_at,
            recipients=terms.recipients,
        )
    chunks = stream_body(request, limits.artifact_bytes)
    received = await receive(passage.services, passage.tenant_id, incoming, chunks)
    try:
        async with passage.answering() as scope:
            await publish(scope, [received])
            shown = view_of(await views.find(scope, received.artifact_id))
            headers = {"Location": f"/v1/artifacts/{shown.artifact_id}"}
            return passage.answer(_json(shown.model_dump_json(), 201, headers))
    except BaseException:
        await discard(passage.services, passage.tenant_id, [received.artifact_id])
        raise


def _json(content: str, status: int, headers: dict[str, str]) -> Response:
    return Response(content, status, headers=headers, media_type="application/json")


@router.get("/{artifact_id}", responses=problems(410))
async def show(scope: Annotated[Scope, scoped("artifacts", "read")], artifact_id: str) -> ArtifactView:
    """Show what is known of an artifact."""
    return view_of(await _find(scope, artifact_id))


@router.get("/{artifact_id}/versions", responses=problems(410))
async def versions(
    scope: Annotated[Scope, scoped("artifacts", "list")], artifact_id: str, page: WantedPage
) -> Page[ArtifactView]:
    """List the versions of a file that are still there, the newest first."""
    found = await _find(scope, artifact_id)
    return await _page(scope, Wanted(series_id=found.series_id), page)


@router.get("/{artifact_id}/events", responses=problems(410))
async def events(
    scope: Annotated[Scope, scoped("artifacts", "read")], artifact_id: str, page: WantedPage
) -> Page[EventView]:
    """Show what happened to an artifact: who stored it, who opened it, oldest first."""
    found = await _find(scope, artifact_id)
    return await history(scope, views.stream_of(found.artifact_id), page)


async def _find(scope: Scope, artifact_id: str) -> Artifact:
    return await views.find(scope, parse_id(artifact_id, "artifact"))


# Content


@router.get("/{artifact_id}/content", response_class=Response, responses=replying.CONTENT | problems(410, 416))
async def content(scope: Annotated[Scope, scoped("artifacts", "read")], artifact_id: str, request: Request) -> Response:
    """Read an artifact, decrypted: all of it, or one range (RFC 9110, section 14)."""
    reply = await replying.reply(scope, parse_id(artifact_id, "artifact"), request.headers)
    if reply.pieces is None:
        return Response(status_code=reply.status, headers=dict(reply.headers))
    return Flowing(reply.pieces, status_code=reply.status, headers=reply.headers)


@router.head("/{artifact_id}/content", response_class=Response, responses=problems(410))
async def content_head(scope: Annotated[Scope, scoped("artifacts", "read")], artifact_id: str) -> Response:
    """Say what reading the artifact would bring, without its bytes."""
    found = await _find(scope, artifact_id)
    return Response(headers=dict(serving.content_headers(found, None)))


@router.get("/{artifact_id}/sealed", response_class=Response, responses=_SEALED | problems(410))
async def sealed(scope: Annotated[Scope, scoped("artifacts", "read")], artifact_id: str) -> Response:
    """Read an artifact as it is stored, with its key sealed to those who can open it. See `retinue artifacts open`."""
    found = await opening.take(scope, parse_id(artifact_id, "artifact"), "sealed")
    header = await opening.sealed_header(scope, found)
    flowing = opening.read_sealed(scope.services, scope.tenant_id, found, header)
    length = len(header) + opening.sealed_length(found)
    return Flowing(flowing, status_code=200, headers=serving.sealed_headers(found, length))


# The end


@router.delete("/{artifact_id}", status_code=204, responses=problems(409, 410))
async def delete(scope: Annotated[Scope, scoped("artifacts", "delete")], artifact_id: str) -> None:
    """Destroy an artifact: its key at once, its stored bytes right after."""
    await lifetime.delete(scope, parse_id(artifact_id, "artifact"))


@router.put("/{artifact_id}/hold", responses=problems(410))
async def hold(
    scope: Annotated[Scope, scoped("artifacts", "change")], artifact_id: str, body: NewHold | None = None
) -> ArtifactView:
    """Place an artifact under legal hold: nobody deletes it, and it does not expire."""
    return view_of(await lifetime.hold(scope, parse_id(artifact_id, "artifact"), body.reason if body else ""))


@router.delete("/{artifact_id}/hold", status_code=204, responses=problems(410))
async def release(scope: Annotated[Scope, scoped("artifacts", "change")], artifact_id: str) -> None:
    """End a legal hold. What would have expired meanwhile is deleted."""
    await lifetime.release(scope, parse_id(artifact_id, "artifact"))


# Uploads in pieces


@upload_router.options("", status_code=204, dependencies=[public()])
async def abilities(services: Annotated[Services, Depends(services_of)]) -> Response:
    """Say what this server can do with uploads (tus 1.0.0)."""
    return Response(status_code=204, headers=dict(tus.options(services.get(Settings).artifact_bytes)))


@upload_router.post(
    "",
    status_code=201,
    response_class=Response,
    openapi_extra=_NEW_UPLOAD,
    responses=problems(400, 409, 412, 413, 415, 507),
)
async def begin(passage: Annotated[Passage, passing("artifacts", "create")], request: Request) -> Response:
    """Begin a resumable upload: `Upload-Length`, `Upload-Metadata` with `filename`; its first bytes may come along."""
    headers = request.headers
    tus.check_version(headers)
    length, metadata = tus.number(headers, "Upload-Length"), tus.read_metadata(headers.get("upload-metadata"))
    carries = bool(headers.get("content-type"))
    if carries:
        tus.check_media_type(headers)
    async with passage.answering() as scope:
        upload = await pieces.create(
            scope,
            metadata.name,
            length,
            version_of=metadata.version_of,
            retention_seconds=metadata.retention_seconds,
        )
        place = {"Location": f"/v1/uploads/{upload.upload_id}"}
        answer = passage.answer(Response(status_code=201, headers=tus.state(upload) | place))
    if not carries:
        return answer
    upload = await _take_in(passage, request, upload.upload_id, 0)
    return Response(status_code=201, headers=tus.state(upload) | place)


@upload_router.head("/{upload_id}", response_class=Response, openapi_extra=_TUS, responses=problems(410, 412))
async def where(scope: Annotated[Scope, scoped("artifacts", "create")], upload_id: str, request: Request) -> Response:
    """Say how much of an upload is safe."""
    tus.check_version(request.headers)
    upload = await uploads.find(scope, parse_id(upload_id, "upload"))
    return Response(headers=tus.state(upload) | {"Upload-Metadata": tus.metadata_of(upload)})


@upload_router.get("/{upload_id}", responses=problems(410))
async def show_upload(scope: Annotated[Scope, scoped("artifacts", "create")], upload_id: str) -> UploadView:
    """Show an upload, and the artifact it became."""
    return upload_view_of(await uploads.find(scope, parse_id(upload_id, "upload")))


@upload_router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=_PIECE,
    responses=problems(400, 409, 410, 412, 413, 415, 460, 507),
)
async def go_on(
    passage: Annotated[Passage, passing("artifacts", "create")], upload_id: str, request: Request
) -> Response:
    """Send the next bytes of an upload, from `Upload-Offset` on. After the last ones it becomes an artifact."""
    tus.check_version(request.headers)
    tus.check_media_type(request.headers)
    offset = tus.number(request.headers, "Upload-Offset")
    upload = await _take_in(passage, request, parse_id(upload_id, "upload"), offset)
    return Response(status_code=204, headers=tus.state(upload))


@upload_router.delete("/{upload_id}", status_code=204, openapi_extra=_TUS, responses=problems(409, 410, 412))
async def give_up(scope: Annotated[Scope, scoped("artifacts", "create")], upload_id: str, request: Request) -> Response:
    """Give an upload up."""
    tus.check_version(request.headers)
    await uploads.terminate(scope, parse_id(upload_id, "upload"))
    return Response(status_code=204, headers={"Tus-Resumable": tus.VERSION})


async def _take_in(passage: Passage, request: Request, upload_id: UUID, offset: int) -> uploads.Upload:
    given = request.headers.get("upload-checksum")
    checksum = None if given is None else tus.Checksum(given)
    # Whether a signed body is the one that was signed is known at its end, as with a checksum.
    whole = checksum is not None or "content-digest" in request.headers
    async with passage.scope() as scope:
        limits = await limits_of(scope, scope.owner())

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in stream_body(request, limits.artifact_bytes):
            if checksum is not None:
                checksum.update(chunk)
            yield chunk

    async def check() -> None:
        if checksum is not None:
            checksum.check()

    writing = pieces.Writing(passage.services, passage.tenant_id, passage.scope, upload_id, whole=whole)
    upload = await writing.write(offset, chunks(), check)
    return await _until_finished(passage, upload)


async def _until_finished(passage: Passage, upload: uploads.Upload) -> uploads.Upload:
    """Wait a while for a whole upload to become an artifact, so that the client need not ask."""
    left = _FINISH_SECONDS
    while upload.state == "finishing" and left > 0:
        await asyncio.sleep(_LOOK_SECONDS)
        left -= _LOOK_SECONDS
        async with passage.scope() as scope:
            upload = await uploads.find(scope, upload.upload_id)
    if upload.state == "refused":
        raise tus.UploadRefused(upload.problem or "This upload was refused.")
    return upload
