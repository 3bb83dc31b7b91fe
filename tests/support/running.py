"""A started server: the real program in a process of its own, on a database of its own, spoken to over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from tests.support.databases import Cluster
from tests.support.forked import Forked, can_fork, nursery
from tests.support.mounts import unmount_below
from tests.support.waiting import looks

RETINUE = Path(sys.executable).with_name("retinue")
PASSWORD = "correct horse battery staple"
ENDED = {"completed", "failed", "cancelled", "timed_out", "dead_lettered"}


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """One process of the product: ``serve`` or ``worker``."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.command = command
        self.environment = environment
        self.log = log
        self.popen: subprocess.Popen[bytes] | Forked | None = None

    def start(self) -> None:
        if can_fork(self.environment):
            self.log.touch()
            self.popen = nursery().start([str(RETINUE), *self.command], self.environment, self.log)
            return
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(
                [str(RETINUE), *self.command], env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a power cut would: SIGKILL."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def stop(self) -> int:
        """End it in good order."""
        if self.popen is None:
            return 0
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.popen.wait()

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class RunningServer:
    """A server under test.

    Args:
        folder: its data folder.
        settings: environment variables over the defaults for tests.
        cluster: where its database is made; None: it starts an embedded one in its folder.
    """

    def __init__(self, folder: Path, cluster: Cluster | None, settings: dict[str, str]) -> None:
        self.folder = folder
        self.cluster = cluster
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.database: str | None = None
        self.settings = settings
        self.workers: list[Process] = []
        self.api: Process | None = None
        self.clients: list[httpx.AsyncClient] = []
        self.started = 0

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        environment = kept | {
            "RETINUE_DATA": str(self.folder),
            "RETINUE_RATE_LIMIT": "off",
            "RETINUE_LOGIN_RATE_LIMIT": "off",
            "RETINUE_PORT": str(self.port),
            "RETINUE_ALLOW_PRIVATE_FETCH": "true",
            "RETINUE_MODEL_ATTEMPTS": "2",
        }
        if self.cluster is not None and self.database is not None:
            environment["DATABASE_URL"] = self.cluster.dsn(self.database)
            environment["DATABASE_OWNER_URL"] = self.cluster.dsn(self.database, "retinue_owner")
        return environment | self.settings

    async def start(self, *, worker: bool = True) -> None:
        """Start (or start again) the API process and wait until it is ready."""
        if self.cluster is not None and self.database is None:
            self.database = await self.cluster.clone()
        command = ["serve"] if worker else ["serve", "--no-worker"]
        self.api = Process(command, self.environment(), self.folder / "serve.log")
        self.api.start()
        await self.until_ready()

    async def until_ready(self, seconds: float = 60) -> None:
        assert self.api is not None
        async with httpx.AsyncClient() as client:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self.api.popen is not None and self.api.popen.poll() is not None:
                    raise AssertionError(f"the server ended:\n{self.api.output()[-4000:]}")
                try:
                    if (await client.get(f"{self.base_url}/health/ready", timeout=2)).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(0.05)
        raise AssertionError(f"the server is not ready:\n{self.api.output()[-4000:]}")

    def start_worker(self, **settings: str) -> Process:
        """Start one more worker process; ``settings`` are its own, over the server's."""
        self.started += 1
        worker = Process(["worker"], self.environment() | settings, self.folder / f"worker-{self.started}.log")
        worker.start()
        self.workers.append(worker)
        return worker

    async def kill_workers(self) -> None:
        """Kill all workers of their own processes."""
        for worker in self.workers:
            await asyncio.to_thread(worker.kill)
        self.workers.clear()

    def kill(self) -> None:
        """Kill the API process."""
        assert self.api is not None
        self.api.kill()

    async def stop(self) -> None:
        """End the API process in good order; it can be started again."""
        assert self.api is not None
        await asyncio.to_thread(self.api.stop)

    async def close(self) -> None:
        for client in self.clients:
            await client.aclose()
        for process in [*self.workers, *([self.api] if self.api else [])]:
            await asyncio.to_thread(process.stop)
        if self.cluster is not None and self.database is not None:
            await self.cluster.drop(self.database)

    def log(self) -> str:
        """Return everything the server's processes wrote."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.log")))

    async def person(self, name: str = "ada") -> Person:
        """Sign somebody up."""
        client = httpx.AsyncClient(base_url=self.base_url, timeout=60)
        self.clients.append(client)
        email = f"{name}-{uuid4().hex[:8]}@example.com"
        answer = await client.post("/v1/auth/sign-up", json={"email": email, "password": PASSWORD, "name": name})
        assert answer.status_code == 201, answer.text
        account = answer.json() | {"email": email}
        client.headers["Authorization"] = f"Bearer {account['access_token']}"
        return Person(client, account)


@asynccontextmanager
async def running_server(
    cluster: Cluster | None, *, worker: bool = True, **settings: str
) -> AsyncIterator[RunningServer]:
    """Start a server for one test (or one module of tests)."""
    with tempfile.TemporaryDirectory(prefix="retinue-test-", ignore_cleanup_errors=True) as folder:
        server = RunningServer(Path(folder), cluster, settings)
        try:
            await server.start(worker=worker)
            yield server
        finally:
            await server.close()
            unmount_below(Path(folder))


@dataclass
class Person:
    """Somebody signed in, and what they do over HTTP."""

    client: httpx.AsyncClient
    account: dict[str, Any]

    @property
    def tenant_id(self) -> str:
        return str(self.account["tenant_id"])

    async def call(self, method: str, path: str, expected: int | None = None, **request: Any) -> Any:
        """Make a request and return the JSON of the answer; ``expected`` is the status (default: any success)."""
        answer = await self.client.request(method, path, **request)
        if expected is None:
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        else:
            assert answer.status_code == expected, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content and "json" in answer.headers.get("content-type", "") else answer

    async def agent(self, name: str | None = None, **definition: Any) -> dict[str, Any]:
        """Create an agent."""
        body = {"name": name or f"agent-{uuid4().hex[:8]}", "instructions": "Be brief.", **definition}
        found: dict[str, Any] = await self.call("POST", "/v1/my/agents", 201, json=body)
        return found

    async def send(
        self, agent: dict[str, Any], content: str, session: str | None = None, **body: Any
    ) -> dict[str, Any]:
        """Send a message and return what was accepted."""
        path = f"/v1/my/chat/{session or uuid4()}/messages"
        message = {"content": content, "target_agent": agent["agent_id"], **body}
        found: dict[str, Any] = await self.call("POST", path, 202, json=message)
        return found

    async def ask(self, agent: dict[str, Any], content: str, session: str | None = None) -> dict[str, Any]:
        """Send a message and wait for the answer: ``{"run": ..., "message": ...}``."""
        path = f"/v1/my/chat/{session or uuid4()}/messages?wait=true&timeout=60"
        found: dict[str, Any] = await self.call(
            "POST", path, 200, json={"content": content, "target_agent": agent["agent_id"]}
        )
        return found

    async def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", f"/v1/my/runs/{run_id}")
        return found

    async def until(
        self, run_id: str, wanted: Callable[[dict[str, Any]], bool] | str | None = None, seconds: float = 60
    ) -> dict[str, Any]:
        """Wait until a run has ended, has a status, or satisfies a condition."""
        async for _ in looks(seconds):
            run = await self.run(run_id)
            if _satisfies(run, wanted):
                return run
        types = [event["type"] for event in await self.events(run_id)]
        raise AssertionError(f"still {run['status']} ({run['error']}) after {seconds} s: {types}")

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        page = await self.call("GET", f"/v1/my/runs/{run_id}/events?limit=200")
        found: list[dict[str, Any]] = page["items"]
        return found

    async def approvals(self, status: str = "pending") -> list[dict[str, Any]]:
        page = await self.call("GET", f"/v1/my/approvals?status={status}&limit=200")
        found: list[dict[str, Any]] = page["items"]
        return found

    async def approval(self, run_id: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for a run's question and return it."""
        async for _ in looks(seconds):
            for one in await self.approvals():
                if one["run_id"] == run_id:
                    return one
        raise AssertionError(f"the run asked nothing: {await self.run(run_id)}")

    async def decide(self, approval: dict[str, Any], decision: str = "approve", **body: Any) -> Any:
        path = f"/v1/my/approvals/{approval['approval_id']}/confirm"
        return await self.call("POST", path, json={"decision": decision, **body})

    @asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Follow the live stream: yields ``{"event", "id", "data"}``."""
        request = self.client.stream("GET", f"/v1/my/events/stream{query}", headers=headers, timeout=60)
        async with request as response:
            assert response.status_code == 200, await response.aread()
            yield _events(response)


def _satisfies(run: dict[str, Any], wanted: Callable[[dict[str, Any]], bool] | str | None) -> bool:
    if wanted is None:
        return run["status"] in ENDED
    return run["status"] == wanted if isinstance(wanted, str) else wanted(run)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                yield {"event": fields.get("event"), "id": fields.get("id"), "data": json.loads(fields["data"])}
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
