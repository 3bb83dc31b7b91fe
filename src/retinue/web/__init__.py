"""HTTP: the application, one scope a request, problems, limits, idempotency and the live streams.

A room's ``api.py`` uses::

    router = Router(prefix="/v1/my/agents", tags=["agents"], responses=problems(409))

    @router.post("", status_code=201)
    async def create(scope: Annotated[Scope, scoped("agents", "create")], body: NewAgent) -> AgentView: ...

    @router.get("")
    async def find(scope: Annotated[Scope, scoped("agents", "list")], page: WantedPage) -> Page[AgentView]: ...

    @router.post("/login", dependencies=[public()])
    async def login(services: Annotated[Services, Depends(services_of)], ...) -> Tokens: ...
"""

from retinue.web.app import create_app
from retinue.web.body import BodyCut, stream_body
from retinue.web.catalogue import Catalogue, Streamed
from retinue.web.deferred import Deferred, Flowing
from retinue.web.digests import content_digests
from retinue.web.etags import IfMatch, check_match, etag, set_etag
from retinue.web.exchange import Exchange
from retinue.web.gate import ALL, Asked, Credential, Entry, Gate, Permission
from retinue.web.health import Health
from retinue.web.history import EventView, history
from retinue.web.limits import limit_login
from retinue.web.money import Money, nanos_of
from retinue.web.paging import Page, Paging, WantedPage, cursor, read_cursor
from retinue.web.problems import Problem, invalid, problems, refused
from retinue.web.routing import Router
from retinue.web.scope import Passage, exchange_here, passing, public, scoped, services_of
from retinue.web.server import Server
from retinue.web.spreadsheet import CSV, csv_of, csv_response, defused
from retinue.web.sse import EventStream, Wanted, stream_of_one
from retinue.web.streams import Streams

__all__ = [
    "ALL",
    "CSV",
    "Asked",
    "BodyCut",
    "Catalogue",
    "Credential",
    "Deferred",
    "Entry",
    "EventStream",
    "EventView",
    "Exchange",
    "Flowing",
    "Gate",
    "Health",
    "IfMatch",
    "Money",
    "Page",
    "Paging",
    "Passage",
    "Permission",
    "Problem",
    "Router",
    "Server",
    "Streamed",
    "Streams",
    "Wanted",
    "WantedPage",
    "check_match",
    "content_digests",
    "create_app",
    "csv_of",
    "csv_response",
    "cursor",
    "defused",
    "etag",
    "exchange_here",
    "history",
    "invalid",
    "limit_login",
    "nanos_of",
    "passing",
    "problems",
    "public",
    "read_cursor",
    "refused",
    "scoped",
    "services_of",
    "set_etag",
    "stream_body",
    "stream_of_one",
]
