"""The doors to HTTP: your agents, their versions, pausing, and YAML. An agent is named by its id or its name."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from retinue.agents import commands, templates, views, yaml_form
from retinue.agents.rules import IDLE, Agent
from retinue.agents.shapes import (
    AgentVersion,
    AgentView,
    Installed,
    InstalledAgent,
    NewAgent,
    Templates,
    WantedTemplates,
    definition_of,
    shape_of,
    view_of,
)
from retinue.kernel import BadInput, Scope, UnsupportedMediaType
from retinue.web import (
    Exchange,
    IfMatch,
    Page,
    Router,
    WantedPage,
    check_match,
    exchange_here,
    problems,
    scoped,
    set_etag,
)

router = Router(prefix="/v1/my/agents", tags=["agents"])

Reference = Annotated[str, Path(description="the agent's id or name")]

_YAML_TYPES = frozenset({"text/yaml", "application/yaml", "application/x-yaml", "text/x-yaml"})
_YAML_CONTENT = {"text/yaml": {"schema": yaml_form.described()}}
_YAML_BODY = {"requestBody": {"required": True, "content": _YAML_CONTENT}}
_YAML_ANSWER: dict[int | str, dict[str, Any]] = {200: {"description": "the definition", "content": _YAML_CONTENT}}


@router.post("", status_code=201, responses=problems(409))
async def create(scope: Annotated[Scope, scoped("agents", "create")], response: Response, body: NewAgent) -> AgentView:
    """Make an agent."""
    return await _shown(scope, await commands.create(scope, definition_of(body)), response)


@router.get("")
async def list_all(scope: Annotated[Scope, scoped("agents", "list")], page: WantedPage) -> Page[AgentView]:
    """Your agents, oldest first."""
    after = page.after_one(UUID)
    found = await views.owned(scope, scope.owner(), after, page.limit + 1)
    busy = await commands.activity(scope, [agent.agent_id for agent in found])
    return page.page(
        found, lambda agent: view_of(agent, busy.get(agent.agent_id, IDLE)), lambda agent: (str(agent.agent_id),)
    )


async def _yaml_body(request: Request, exchange: Annotated[Exchange, Depends(exchange_here)]) -> bytes:
    """Read the body before the scope opens: a slow caller must not hold a transaction."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in _YAML_TYPES:
        raise UnsupportedMediaType("Send text/yaml.")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise BadInput("The body ended too early.", field="body") from None
    exchange.body = raw  # so that an idempotency key stands for this body and no other
    return raw


@router.post("/import", status_code=201, responses=problems(409, 413, 415), openapi_extra=_YAML_BODY)
async def import_yaml(
    raw: Annotated[bytes, Depends(_yaml_body)],
    scope: Annotated[Scope, scoped("agents", "import")],
    response: Response,
    replace: Annotated[bool, Query(description="change the agent of that name, if there is one")] = False,
) -> AgentView:
    """Make an agent from YAML, such as an export gives. With `replace`, 200 says that there was one of that name."""
    wanted = definition_of(yaml_form.parsed(raw))
    if not replace:
        return await _shown(scope, await commands.create(scope, wanted), response)
    agent, is_new = await commands.put(scope, wanted)
    response.status_code = 201 if is_new else 200
    return await _shown(scope, agent, response)


@router.get("/templates")
async def list_templates(scope: Annotated[Scope, scoped("agents", "list")]) -> Templates:
    """The agents that come with the server, ready to be installed: a team of seven, and who leads it."""
    return Templates(items=[shape_of(templates.template(name)) for name in templates.NAMES])


@router.post("/templates/install", responses=problems(409))
async def install_templates(
    scope: Annotated[Scope, scoped("agents", "create")], body: WantedTemplates | None = None
) -> Installed:
    """Make agents from templates: all of them, or those named. What you have already under a name stays as it is."""
    names = templates.NAMES if body is None or body.names is None else body.names
    found = await templates.install(scope, names)
    return Installed(
        items=[InstalledAgent(name=agent.name, agent_id=agent.agent_id, installed=is_new) for agent, is_new in found]
    )


@router.get("/{agent}")
async def show(scope: Annotated[Scope, scoped("agents", "read")], agent: Reference, response: Response) -> AgentView:
    """One of your agents."""
    return await _shown(scope, await commands.find(scope, agent), response)


@router.put("/{agent}", responses=problems(409, 412))
async def change(
    scope: Annotated[Scope, scoped("agents", "change")],
    agent: Reference,
    if_match: IfMatch,
    response: Response,
    body: NewAgent,
) -> AgentView:
    """Replace the definition; fields that are left out get their defaults. What differs makes a new version."""
    found = await commands.locked(scope, agent)
    present = await _view(scope, found)
    check_match(if_match, found.version, lambda: present.model_dump(mode="json"))
    return await _shown(scope, await commands.change(scope, found, definition_of(body)), response)


@router.delete("/{agent}", status_code=204, responses=problems(409))
async def delete(
    scope: Annotated[Scope, scoped("agents", "delete")],
    agent: Reference,
    force: Annotated[bool, Query(description="cancel the runs that are under way")] = False,
) -> Response:
    """Delete an agent. Runs that used it keep the definition they had."""
    await commands.delete(scope, await commands.locked(scope, agent), force=force)
    return Response(status_code=204)


@router.get("/{agent}/versions")
async def versions(
    scope: Annotated[Scope, scoped("agents", "read")], agent: Reference, page: WantedPage
) -> Page[AgentVersion]:
    """Every version of an agent's definition, newest first."""
    found = await commands.find(scope, agent)
    before = page.after_one(int)
    rows = await views.versions(scope, found.agent_id, before, page.limit + 1)
    return page.page(
        rows,
        lambda row: AgentVersion.model_construct(version=row[0], definition=shape_of(row[1]), created_at=row[2]),
        lambda row: (row[0],),
    )


@router.post("/{agent}/pause")
async def pause(scope: Annotated[Scope, scoped("agents", "pause")], agent: Reference, response: Response) -> AgentView:
    """Let an agent start nothing until it is resumed; what runs stops at its next step."""
    return await _shown(scope, await commands.pause(scope, await commands.locked(scope, agent)), response)


@router.post("/{agent}/resume")
async def resume(
    scope: Annotated[Scope, scoped("agents", "resume")], agent: Reference, response: Response
) -> AgentView:
    """Let a paused agent go on."""
    return await _shown(scope, await commands.resume(scope, await commands.locked(scope, agent)), response)


@router.get("/{agent}/export", response_class=Response, responses=_YAML_ANSWER)
async def export(scope: Annotated[Scope, scoped("agents", "export")], agent: Reference) -> Response:
    """The definition as YAML. It holds what you put into ``mcp``, headers and environment included."""
    found = await commands.find(scope, agent)
    return Response(yaml_form.written(found.definition), media_type="text/yaml; charset=utf-8")


async def _view(scope: Scope, agent: Agent) -> AgentView:
    busy = await commands.activity(scope, [agent.agent_id])
    return view_of(agent, busy.get(agent.agent_id, IDLE))


async def _shown(scope: Scope, agent: Agent, response: Response) -> AgentView:
    set_etag(response, agent.version)
    return await _view(scope, agent)
