"""An organisation with a person of each role, and two teams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.support.running import Person, RunningServer


@dataclass
class Office:
    """Ada is admin, max manager, mia and moe members, vic viewer. Mia is in the team ``red``, moe in ``blue``."""

    server: RunningServer
    tenant: str
    ada: Person
    max: Person
    mia: Person
    moe: Person
    vic: Person
    red: str
    blue: str

    def people(self) -> dict[str, Person]:
        return {"admin": self.ada, "manager": self.max, "member": self.mia, "viewer": self.vic}

    async def item(self, title: str = "Something to do", person: Person | None = None, **fields: Any) -> dict[str, Any]:
        """Create an item, as mia unless somebody else is given."""
        body = {"title": title, **fields}
        found: dict[str, Any] = await (person or self.mia).call("POST", "/v1/board/items", 201, json=body)
        return found

    async def change(
        self, person: Person, item: dict[str, Any], *, base: int | None = None, expected: int = 200, **fields: Any
    ) -> dict[str, Any]:
        """Change an item, based on a version if one is given."""
        headers = {"If-Match": f'"{base}"'} if base is not None else {}
        path = f"/v1/board/items/{item['item_id']}"
        found: dict[str, Any] = await person.call("PATCH", path, expected, json=fields, headers=headers)
        return found

    async def show(self, person: Person, item: dict[str, Any], expected: int = 200) -> dict[str, Any]:
        found: dict[str, Any] = await person.call("GET", f"/v1/board/items/{item['item_id']}", expected)
        return found

    async def titles(self, person: Person, **params: Any) -> list[str]:
        page = await person.call("GET", "/v1/board/items", params={"limit": 200, **params})
        return [one["title"] for one in page["items"]]


def user_id(person: Person) -> str:
    return str(person.account["user_id"])


async def office_on(server: RunningServer) -> Office:
    """Found an organisation on a started server."""
    ada, max_, mia, moe, vic = [await server.person(name) for name in ("ada", "max", "mia", "moe", "vic")]
    tenant = (await ada.call("POST", "/v1/tenants", 201, json={"name": f"office {uuid4().hex[:6]}"}))["tenant_id"]
    for person, role in ((max_, "manager"), (mia, "member"), (moe, "member"), (vic, "viewer")):
        body = {"user_id": user_id(person), "role": role}
        await ada.call("PUT", f"/v1/tenants/{tenant}/members", json=body)
    for person in (ada, max_, mia, moe, vic):
        person.client.headers["Retinue-Tenant"] = tenant
    teams = []
    for name, member in (("red", mia), ("blue", moe)):
        team = await max_.call("POST", f"/v1/tenants/{tenant}/teams", 201, json={"name": name})
        path = f"/v1/tenants/{tenant}/teams/{team['team_id']}/members"
        await max_.call("PUT", f"{path}/{user_id(member)}", 204)
        await max_.call("DELETE", f"{path}/{user_id(max_)}", 204)
        teams.append(team["team_id"])
    return Office(server, tenant, ada, max_, mia, moe, vic, *teams)
