"""The doors to HTTP: workflows, their runs, their webhooks and callbacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from retinue.database import open_scope
from retinue.kernel import BadInput, NotFound, Scope, Services, Settings, UnsupportedMediaType, parse_id
from retinue.planning import PlanView, Task, find_plan, list_plans, present
from retinue.runs import conversation_of
from retinue.web import (
    Exchange,
    IfMatch,
    Page,
    Router,
    WantedPage,
    check_match,
    exchange_here,
    problems,
    public,
    scoped,
    services_of,
    set_etag,
)
from retinue.workflows import callbacks, commands, secrets, triggers, views
from retinue.workflows.document import NAME, published_schema
from retinue.workflows.drawing import dot, mermaid
from retinue.workflows.reading import Source, read_content, read_text, refusal
from retinue.workflows.shapes import (
    CallbackView,
    GraphEdge,
    GraphNode,
    MistakeView,
    NewRun,
    Secret,
    TakenMessage,
    Validation,
    WorkflowGraph,
    WorkflowRow,
    WorkflowVersion,
    WorkflowView,
    callback_view,
    row_of,
    trigger_view,
)
from retinue.workflows.views import Callback, Stored

router = Router(prefix="/v1/workflows", tags=["workflows"])
hooks = Router(prefix="/v1/hooks", tags=["workflows"])
callbacks_router = Router(prefix="/v1/callbacks", tags=["workflows"])

Name = Annotated[str, Path(pattern=NAME, description="the workflow's name")]

_YAML_TYPES = frozenset({"text/yaml", "application/yaml", "application/x-yaml", "text/x-yaml"})
_DOCUMENT: dict[str, Any] = {
    "schema": {"type": "object", "title": "Workflow", "description": "GET /v1/workflows/schema"}
}
_BODY = {"requestBody": {"required": True, "content": {"text/yaml": _DOCUMENT}}}


async def _document(request: Request, exchange: Annotated[Exchange, Depends(exchange_here)]) -> Source:
    """Read the body before the scope opens: a slow caller must not hold a transaction."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _YAML_TYPES:
        raise UnsupportedMediaType("Send text/yaml.")
    raw = await _raw(request)
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"The YAML is not UTF-8 (byte {error.start}).", field="body") from None
    exchange.body = raw  # so that an idempotency key stands for this body and no other
    return read_text(raw)


async def _raw(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise BadInput("The body ended too early.", field="body") from None


Document = Annotated[Source, Depends(_document)]


@router.get("")
async def list_all(scope: Annotated[Scope, scoped("workflows", "list")], page: WantedPage) -> Page[WorkflowRow]:
    """The tenant's workflows, by name."""
    after = page.after_one(str)
    rows = await views.list_stored(scope, after, page.limit + 1)
    return page.page(rows, row_of, lambda one: (one.name,))


@router.get("/schema")
async def schema(scope: Annotated[Scope, scoped("workflows", "read")]) -> dict[str, Any]:
    """The JSON Schema of a workflow, for editors."""
    return published_schema()


@router.post("/validate", openapi_extra=_BODY, responses=problems(413, 415))
async def validate(source: Document, scope: Annotated[Scope, scoped("workflows", "read")]) -> Validation:
    """Say everything that is wrong with a workflow, with path and line; nothing is kept."""
    found = await commands.mistakes(scope, source)
    shown = [MistakeView(path=one.path, line=one.line, message=one.message) for one in found]
    return Validation(valid=not shown, mistakes=shown)


@router.get("/{name}")
async def show(scope: Annotated[Scope, scoped("workflows", "read")], name: Name, response: Response) -> WorkflowView:
    """One workflow."""
    return await _shown(scope, await commands.find(scope, name), response)


@router.put("/{name}", openapi_extra=_BODY, responses=problems(409, 412, 413, 415))
async def put(
    source: Document,
    scope: Annotated[Scope, scoped("workflows", "change")],
    name: Name,
    if_match: IfMatch,
    response: Response,
) -> WorkflowView:
    """Make a workflow, or give it its next version. Every mistake is named with its path and line."""
    if source.workflow is not None and source.workflow.name != name:
        raise refusal([source.mistake(("name",), f"The name is {source.workflow.name!r}, and the path says {name!r}.")])
    if commands.listens(source):
        await commands.listen(scope)
    await views.claim_name(scope, name)
    present_one = await views.by_name(scope, name, lock=True)
    if if_match is not None:
        if present_one is None:
            raise NotFound("workflow")
        current = row_of(present_one).model_dump(mode="json")
        check_match(if_match, present_one.number, lambda: current)
    applied = await commands.apply(scope, source, present_one)
    shown = await _shown(scope, applied.stored, response)
    return shown.model_copy(update={"secrets": dict(applied.secrets)})


@router.delete("/{name}", status_code=204, responses=problems(412))
async def delete(scope: Annotated[Scope, scoped("workflows", "delete")], name: Name, if_match: IfMatch) -> Response:
    """Delete a workflow and its triggers. Runs that are under way go on."""
    found = await commands.find(scope, name, lock=True)
    check_match(if_match, found.number, lambda: row_of(found).model_dump(mode="json"))
    await commands.delete(scope, found)
    return Response(status_code=204)


@router.get("/{name}/versions")
async def versions(
    scope: Annotated[Scope, scoped("workflows", "read")], name: Name, page: WantedPage
) -> Page[WorkflowVersion]:
    """Every version of a workflow, newest first."""
    found = await commands.find(scope, name)
    before = page.after_one(int)
    rows = await views.versions(scope, found.workflow_id, before, page.limit + 1)
    return page.page(
        rows,
        lambda row: WorkflowVersion(
            version=row[0], definition=row[1], yaml=row[2], applied_by=row[3], created_at=row[4]
        ),
        lambda row: (row[0],),
    )


@router.get(
    "/{name}/graph",
    response_model=WorkflowGraph,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "the graph"}},
)
async def graph(
    scope: Annotated[Scope, scoped("workflows", "read")],
    name: Name,
    format: Annotated[Literal["json", "mermaid", "dot"], Query(description="how it is written")] = "json",
) -> Any:
    """The tasks that a workflow's steps become, with those of the workflows it calls."""
    stored = await commands.find(scope, name)
    plan = (await commands.compiled(scope, read_content(stored.content))).plan
    if format != "json":
        return Response(mermaid(plan) if format == "mermaid" else dot(plan), media_type="text/plain; charset=utf-8")
    return WorkflowGraph(nodes=list(_nodes(plan.tasks, None)), edges=list(_edges(plan.tasks, "")))


def _nodes(tasks: Sequence[Task], parent: str | None) -> Iterator[GraphNode]:
    for task in tasks:
        full = task.id if parent is None else f"{parent}/{task.id}"
        tool = task.call.tool if task.call else None
        yield GraphNode(
            id=full, parent=parent, title=task.title, kind=task.kind, agent=task.agent, tool=tool, when=task.when
        )
        if task.each is not None:
            yield from _nodes(task.each.body, full)


def _edges(tasks: Sequence[Task], prefix: str) -> Iterator[GraphEdge]:
    for task in tasks:
        for other in task.depends_on:
            yield GraphEdge(source=prefix + other, target=prefix + task.id, kind=task.runs_on)
        if task.each is not None:
            yield from _edges(task.each.body, f"{prefix}{task.id}/")


@router.post("/{name}/callback-secret", status_code=201)
async def callback_secret(scope: Annotated[Scope, scoped("workflows", "change")], name: Name) -> Secret:
    """Make the secret that callbacks of this workflow's runs are signed with, in place of an older one."""
    found = await commands.find(scope, name, lock=True)
    return Secret(secret=await secrets.make(scope, secrets.CALLBACK, found.workflow_id))


@router.post("/{name}/hooks/{trigger}/secret", status_code=201)
async def hook_secret(
    scope: Annotated[Scope, scoped("workflows", "change")],
    name: Name,
    trigger: Annotated[str, Path(max_length=100, description="the trigger's id")],
) -> Secret:
    """Make a new secret for a webhook of the workflow; the old one is worth nothing from now on."""
    found = await commands.find(scope, name, lock=True)
    for one in await views.triggers_of(scope, found.workflow_id):
        if one.id == trigger and one.kind == "webhook":
            return Secret(secret=await secrets.make(scope, secrets.HOOK, one.key))
    raise NotFound("webhook")


@router.post("/{name}/runs", status_code=202)
async def run(
    scope: Annotated[Scope, scoped("workflows", "create")], name: Name, response: Response, body: NewRun | None = None
) -> PlanView:
    """Start a run with your agents; it is a plan, and its id is one of `/v1/my/plans`."""
    wanted = body or NewRun()
    callback = callbacks.check_url(wanted.callback, scope.service(Settings)) if wanted.callback else None
    if wanted.session_id is not None:
        await conversation_of(scope).check_owner(scope, wanted.session_id)
    found = await commands.find(scope, name)
    plan_id = await commands.start(scope, found, wanted.inputs, session_id=wanted.session_id, callback=callback)
    response.headers["Location"] = f"/v1/my/plans/{plan_id}"
    return present(await find_plan(scope, plan_id))


@router.get("/{name}/runs")
async def runs(scope: Annotated[Scope, scoped("workflows", "read")], name: Name, page: WantedPage) -> Page[PlanView]:
    """The runs of a workflow, newest first: your own; managers and admins see all."""
    found = await commands.find(scope, name)
    before = page.after_one(UUID)
    rows = await list_plans(
        scope,
        _whose(scope),
        before=before,
        limit=page.limit + 1,
        workflow_id=found.workflow_id,
    )
    return page.page(rows, present, lambda plan: (plan.plan_id,))


@hooks.post("/{tenant}/{hook}", status_code=202, dependencies=[public()], responses=problems(401, 409))
async def receive(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    tenant: Annotated[UUID, Path(description="the tenant's id")],
    hook: Annotated[UUID, Path(description="the webhook's id")],
) -> TakenMessage:
    """Take a message that is signed as Standard Webhooks says; the same message is taken once."""
    raw = await _raw(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    async with open_scope(services, tenant, cause=f"webhook:{hook}") as scope:
        return TakenMessage(plan_id=await triggers.on_message(scope, hook, headers, raw))


@callbacks_router.get("")
async def list_callbacks(
    scope: Annotated[Scope, scoped("workflows", "list")],
    page: WantedPage,
    status: Annotated[Literal["pending", "delivered", "dead"] | None, Query(description="only of this status")] = None,
) -> Page[CallbackView]:
    """Reports of ends to somebody outside, newest first."""
    before = page.after_one(UUID)
    rows = await views.list_callbacks(scope, _whose(scope), status, before, page.limit + 1)
    return page.page(rows, callback_view, lambda one: (one.callback_id,))


@callbacks_router.get("/{callback_id}", responses=problems(404))
async def show_callback(scope: Annotated[Scope, scoped("workflows", "read")], callback_id: str) -> CallbackView:
    """Show one report of an end, and what became of it."""
    return callback_view(await _own_callback(scope, callback_id))


@callbacks_router.post("/{callback_id}/requeue", status_code=202, responses=problems(409))
async def requeue(scope: Annotated[Scope, scoped("workflows", "create")], callback_id: str) -> CallbackView:
    """Have a dead callback tried again."""
    found = await _own_callback(scope, callback_id, lock=True)
    return callback_view(await callbacks.requeue(scope, found.callback_id))


async def _own_callback(scope: Scope, callback_id: str, *, lock: bool = False) -> Callback:
    """Return a callback the caller may see: an own one, or any for managers and admins."""
    found = await views.callback(scope, parse_id(callback_id, "callback"), lock=lock)
    if _whose(scope) not in (None, found.owner_id):
        raise NotFound("callback")
    return found


def _whose(scope: Scope) -> UUID | None:
    return None if scope.role in ("manager", "admin") else scope.owner()


async def _shown(scope: Scope, stored: Stored, response: Response) -> WorkflowView:
    set_etag(response, stored.number)
    found = await views.triggers_of(scope, stored.workflow_id)
    return WorkflowView(
        **row_of(stored).model_dump(),
        definition=stored.content,
        yaml=stored.text,
        triggers=[trigger_view(scope.tenant_id, one) for one in found],
    )
