"""A small engine with the calls of Docker's API that the sandbox uses. It runs containers as real programs.

It is no Docker: it shows that the client says the right things in the right order and takes every answer. The walls
are bubblewrap's, only so that the binds and the user of a container mean what they mean in an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
from typing import Any

from aiohttp import web

from retinue.sandbox.processes import fair_bytes, family

_TICKS = os.sysconf("SC_CLK_TCK")


class Box:
    """One container."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.id = secrets.token_hex(16)
        self.configuration = configuration
        self.process: asyncio.subprocess.Process | None = None
        self.started = asyncio.Event()
        self.code: int | None = None
        self.removed = False

    def command(self) -> list[str]:
        """The program with its binds and its user."""
        host = self.configuration["HostConfig"]
        assert host["NetworkMode"] == "none"
        argv = ["bwrap", "--unshare-all", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]
        if os.geteuid() == 0:
            argv.remove("--unshare-all")
            argv += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
            argv += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        argv += ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc/alternatives", "/etc/alternatives"]
        for name in ("bin", "lib", "lib64", "sbin"):
            argv += ["--symlink", f"usr/{name}", f"/{name}"]
        argv += ["--proc", "/proc", "--dev", "/dev"]
        made = set()
        for bind in host["Binds"]:
            source, inside, *rest = bind.split(":")
            above = os.path.dirname(inside)
            if above not in made and above not in ("/", "/dev"):
                argv += ["--perms", "0755", "--dir", above]
                made.add(above)
            argv += ["--ro-bind" if rest == ["ro"] else "--bind", source, inside]
        argv += ["--remount-ro", "/", "--clearenv"]
        for one in self.configuration["Env"]:
            argv += ["--setenv", *one.split("=", 1)]
        uid, gid = self.configuration["User"].split(":")
        become = ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"] if os.geteuid() == 0 else []
        wait = ["sh", "-c", f'cd {self.configuration["WorkingDir"]} && "$@"; exit $?', "sh"]
        return [*argv, "--", *wait, *become, *self.configuration["Cmd"]]


class Engine:
    """The engine; ``asked`` keeps every call."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}
        self.asked: list[str] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def open(self) -> None:
        """Listen on a free port."""
        application = web.Application(middlewares=[self._note])
        application.add_routes(
            [
                web.get("/version", self._version),
                web.post("/v{v}/containers/create", self._create),
                web.get("/v{v}/containers/json", self._list),
                web.post("/v{v}/containers/{id}/attach", self._attach),
                web.post("/v{v}/containers/{id}/start", self._start),
                web.post("/v{v}/containers/{id}/wait", self._wait),
                web.get("/v{v}/containers/{id}/json", self._show),
                web.get("/v{v}/containers/{id}/stats", self._stats),
                web.delete("/v{v}/containers/{id}", self._delete),
                web.get("/v{v}/version", self._version),
            ]
        )
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Kill every container and stop."""
        for box in self.boxes.values():
            await self._kill(box)
        assert self._runner is not None
        await self._runner.cleanup()

    @web.middleware
    async def _note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"Version": "test", "ApiVersion": "1.43"})

    async def _create(self, request: web.Request) -> web.Response:
        box = Box(await request.json())
        if box.configuration["Image"] == "missing":
            return web.json_response({"message": "No such image: missing"}, status=404)
        self.boxes[box.id] = box
        return web.json_response({"Id": box.id, "Warnings": []}, status=201)

    async def _list(self, request: web.Request) -> web.Response:
        wanted = set(json.loads(request.query.get("filters", "{}")).get("label", []))
        found = []
        for box in self.boxes.values():
            labels = {f"{name}={value}" for name, value in box.configuration["Labels"].items()}
            if wanted <= labels and not box.removed:
                found.append({"Id": box.id, "Labels": box.configuration["Labels"]})
        return web.json_response(found)

    def _box(self, request: web.Request) -> Box:
        box = self.boxes.get(request.match_info["id"])
        if box is None or box.removed:
            raise web.HTTPNotFound(text='{"message": "No such container"}', content_type="application/json")
        return box

    async def _show(self, request: web.Request) -> web.Response:
        box = self._box(request)
        state = {"OOMKilled": False, "ExitCode": box.code or 0, "Running": box.code is None}
        return web.json_response({"Id": box.id, "Config": {"Tty": False}, "State": state})

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        box, transport = self._box(request), request.transport
        assert transport is not None
        transport.write(
            b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        await box.started.wait()
        assert box.process is not None

        async def copy(number: int, source: asyncio.StreamReader | None) -> None:
            assert source is not None
            while data := await source.read(65536):
                transport.write(bytes([number, 0, 0, 0]) + len(data).to_bytes(4, "big") + data)
                while transport.get_write_buffer_size() > 1 << 18:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(copy(1, box.process.stdout), copy(2, box.process.stderr))
        transport.close()
        return web.Response()

    async def _start(self, request: web.Request) -> web.Response:
        box = self._box(request)
        box.process = await asyncio.create_subprocess_exec(
            *box.command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        box.started.set()
        return web.Response(status=204)

    async def _wait(self, request: web.Request) -> web.Response:
        box = self._box(request)
        await box.started.wait()
        assert box.process is not None
        code = await box.process.wait()
        box.code = code if code >= 0 else 128 - code
        return web.json_response({"StatusCode": box.code})

    async def _stats(self, request: web.Request) -> web.Response:
        box = self._box(request)
        await box.started.wait()
        assert box.process is not None
        pids = list(family(box.process.pid))
        cpu = int(sum(map(_cpu, pids)) * 1e9)
        return web.json_response(
            {"memory_stats": {"usage": fair_bytes(pids)}, "cpu_stats": {"cpu_usage": {"total_usage": cpu}}}
        )

    async def _delete(self, request: web.Request) -> web.Response:
        box = self._box(request)
        await self._kill(box)
        box.removed = True
        return web.Response(status=204)

    async def _kill(self, box: Box) -> None:
        if box.process is None:
            return
        for pid in list(family(box.process.pid))[1:2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await box.process.wait()


def _cpu(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return sum(int(one) for one in fields[11:15]) / _TICKS
    except OSError:
        return 0.0
