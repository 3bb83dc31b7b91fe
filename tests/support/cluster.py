"""A small cluster with the calls of Kubernetes' API that the sandbox uses. Its pods are programs of this machine.

It is no Kubernetes: it shows that the client makes the right objects, reads their states, and deletes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from aiohttp import web

from retinue.sandbox.processes import family
from tests.support.container_engine import Box


class Cluster:
    """The cluster. ``volume`` is what the volume claim holds."""

    def __init__(self, volume: Path) -> None:
        self.volume = volume
        self.jobs: dict[str, dict[str, Any]] = {}
        self.boxes: dict[str, Box] = {}
        self.policies: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Listen on a free port."""
        application = web.Application()
        space = "/namespaces/{namespace}"
        application.add_routes(
            [
                web.post(f"/apis/networking.k8s.io/v1{space}/networkpolicies", self._policy),
                web.post(f"/apis/batch/v1{space}/jobs", self._create),
                web.delete(f"/apis/batch/v1{space}/jobs/{{name}}", self._delete),
                web.get(f"/api/v1{space}/pods", self._pods),
                web.get(f"/api/v1{space}/pods/{{name}}/log", self._log),
            ]
        )
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        """Kill every pod and stop."""
        for box in self.boxes.values():
            await self._kill(box)
        assert self._runner is not None
        await self._runner.cleanup()

    async def _policy(self, request: web.Request) -> web.Response:
        if self.policies:
            return web.json_response({"kind": "Status", "code": 409, "reason": "AlreadyExists"}, status=409)
        self.policies.append(await request.json())
        return web.json_response(self.policies[0], status=201)

    async def _create(self, request: web.Request) -> web.Response:
        job = await request.json()
        name = job["metadata"]["name"]
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        if container["image"] == "forbidden":
            return web.json_response({"kind": "Status", "code": 403, "reason": "Forbidden"}, status=403)
        box = Box(
            {
                "HostConfig": {
                    "NetworkMode": "none",
                    "Binds": [
                        f"{self.volume / one['subPath']}:{one['mountPath']}" for one in container["volumeMounts"]
                    ],
                },
                "Env": [f"{one['name']}={one['value']}" for one in container["env"]],
                "User": f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}",
                "WorkingDir": container["workingDir"],
                "Cmd": container["command"],
            }
        )
        self.jobs[name], self.boxes[name] = job, box
        box.process = await asyncio.create_subprocess_exec(
            *box.command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        return web.json_response(job, status=201)

    async def _pods(self, request: web.Request) -> web.Response:
        name = request.query["labelSelector"].removeprefix("job-name=")
        box = self.boxes.get(name)
        items = []
        if box is not None:
            assert box.process is not None
            state: dict[str, Any] = {"running": {}}
            phase = "Running"
            if (code := box.process.returncode) is not None:
                code = code if code >= 0 else 128 - code
                state, phase = {"terminated": {"exitCode": code}}, "Succeeded" if code == 0 else "Failed"
            one = {"name": "program", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, "state": state}
            status = {"phase": phase, "containerStatuses": [one]}
            items.append(
                {"metadata": {"name": f"{name}-pod"}, "spec": {"containers": [{"name": "p"}]}, "status": status}
            )
        return web.json_response({"kind": "PodList", "items": items})

    async def _log(self, request: web.Request) -> web.StreamResponse:
        box = self.boxes[request.match_info["name"].removesuffix("-pod")]
        answer = web.StreamResponse()
        await answer.prepare(request)
        assert box.process is not None
        assert box.process.stdout is not None
        with contextlib.suppress(ConnectionError):
            while data := await box.process.stdout.read(65536):
                await answer.write(data)
        return answer

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self.boxes:
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound"}, status=404)
        await self._kill(self.boxes.pop(name))
        self.deleted.append(name)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _kill(self, box: Box) -> None:
        assert box.process is not None
        for pid in list(family(box.process.pid))[1:2]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await box.process.wait()
