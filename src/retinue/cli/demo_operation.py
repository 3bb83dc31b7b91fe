"""`retinue demo --operation`: an application with a user's grant has an agent work on files in a sandbox.

Three parties play: the server, Ada who grants, and an application that signs its requests with a key of its own and is
the only one to open what comes back.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from retinue.cli.client import Client
from retinue.cli.credentials import CredentialFile
from retinue.cli.demo_files import DemoFile
from retinue.cli.demo_stage import Stage
from retinue.cli.screen import Json, Screen
from retinue_client import Application, GranteeKey, Refused, SealBroken, open_sealed

TARGET = "summary.md"
_GOAL = f"Read the files in this folder, say what they are about with a quote of each, and write it to {TARGET}."
_SCRIPT = f'for f in *; do printf "## %s\\n\\n" "$f"; grep -m 2 . "$f" | sed "s/^/> /"; echo; done > {TARGET}.new; ' + (
    f"mv {TARGET}.new {TARGET}; wc -l {TARGET}"
)
_MOST_FILES = 8
_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class OperationTold:
    """How the story went.

    Attributes:
        operation: the operation as it ended.
        events: everything recorded of it, in order.
        uses: everything recorded of the grant, in order.
        opened: what the application read out of the sealed file; None: there was none.
        artifact: the metadata of that file.
        refusals: what was tried by whom that had no right to it -> the answer.
    """

    operation: Json
    events: list[Json]
    uses: list[Json]
    opened: bytes | None
    artifact: Json
    refusals: dict[str, str]

    def problems(self) -> list[str]:
        """Return what is not as it must be; empty when all is well."""
        found = []
        if self.operation["status"] != "completed":
            detail = self.operation.get("detail") or "no cause is given"
            found.append(f"the operation is {self.operation['status']}: {detail}")
        if [event["version"] for event in self.events] != list(range(1, len(self.events) + 1)):
            found.append("the operation's events have a gap")
        if self.opened is None:
            found.append(f"{TARGET} did not come back")
        elif hashlib.sha256(self.opened).hexdigest() != self.artifact["sha256"]:
            found.append(f"{TARGET} is not what was stored")
        expected = {"another key": "does not open", "another application": "404", "after the revocation": "403"}
        found += [
            f"{who}: {self.refusals.get(who)}" for who, what in expected.items() if self.refusals.get(who) != what
        ]
        return found


def install_qwen(drivers: Path, screen: Screen) -> bool:
    """Install the Qwen CLI and its Node where they are not there yet; return whether it can be used."""
    command = [sys.executable, "-m", "retinue.cli", "operations", "install", "qwen", "--drivers", str(drivers)]
    with screen.working("Making sure of the Qwen CLI and its Node (npm and PyPI, about 260 MB, the first time only)"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr or done.stdout).strip().splitlines()
        screen.note(f"  ! no Qwen CLI: {reason[-1] if reason else 'it could not be installed'}", style="yellow")
    return done.returncode == 0


class OperationStory:
    """Tells the story through the HTTP API of a server: Ada with a login, the application with signed requests."""

    def __init__(self, stage: Stage, url: str, screen: Screen) -> None:
        self.url = url
        self.client = Client(url, credentials=CredentialFile(stage.data / "credentials.json"), patience=60)
        self.screen = screen
        self._folder = stage.data / "application"
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def tell(self, files: Sequence[DemoFile], source: str, *, driver: str, model: str | None) -> OperationTold:
        """Sign up, upload, grant, operate, open, and try what must not work."""
        email = f"demo-{uuid4().hex[:8]}@example.com"
        with self.screen.working(f"Signing up {email}"):
            self.client.sign_up(email, uuid4().hex, "Ada")
        some = files[:_MOST_FILES]
        with self.screen.working(f"Uploading {len(some)} files, sealed as they arrive: {source}"):
            uploads = [self._upload(file) for file in some]
        key, key_file = GranteeKey.make(), self._folder / "application.key"
        key.save(key_file)
        self.screen.note(f"  The application Report writer has a key of its own: {key.keyid}")
        grant = self._grant("Report writer", key, driver, uploads)
        return asyncio.run(self._as_application(key, grant, uploads, driver, model))

    def _upload(self, file: DemoFile) -> Json:
        name = file.name.replace("/", "-")
        content = file.path.read_bytes()
        answer = self.client.request("POST", "/v1/artifacts", content=content, params={"name": name}, headers=_BYTES)
        found: Json = answer.json()
        return found

    def _grant(self, application: str, key: GranteeKey, driver: str, uploads: Sequence[Json]) -> Json:
        wanted = {
            "application": application,
            "grantee": key.keyid,
            "seal_to": key.seal_to,
            "drivers": [driver],
            "files": [upload["artifact_id"] for upload in uploads],
            "uses": 3,
            "budget": "1.00",
            "limits": {"seconds": 300},
            "retention_seconds": 3600,
        }
        terms = f"{driver} on these files, 3 times, for $1 in all, results for an hour"
        with self.screen.working(f"Ada grants the application {application}: {terms}"):
            found: Json = self.client.post("/v1/my/grants", wanted)
        return found

    async def _as_application(
        self, key: GranteeKey, grant: Json, uploads: Sequence[Json], driver: str, model: str | None
    ) -> OperationTold:
        async with Application(self.url, grant["grant_id"], key) as application:
            self.screen.note()
            self.screen.note(f"application> {_GOAL}", style="bold")
            wanted: dict[str, Any] = {"expected": [{"name": TARGET}]}
            if driver == "command":
                wanted["parameters"] = {"argv": ["/bin/sh", "-c", _SCRIPT]}
            elif model is not None:
                wanted["model"] = model
            ids = [one["artifact_id"] for one in uploads]
            began = await application.operate(driver, _GOAL, inputs=ids, **wanted)
            operation = await self._followed(application, str(began["operation_id"]))
            artifact: Json = next((one for one in operation["artifacts"] if one["name"] == TARGET), {})
            opened, refusals = None, {}
            if artifact:
                opened, refusals["another key"] = await self._open(application, key, artifact)
            refusals["another application"] = await self._as_another(driver, uploads, operation)
            self.client.delete(f"/v1/my/grants/{grant['grant_id']}")
            refusals["after the revocation"] = await _refusal(application.operation(str(operation["operation_id"])))
            self.screen.note(
                f"  Ada has revoked the grant; the application is answered {refusals['after the revocation']}"
            )
        path = f"/v1/operations/{operation['operation_id']}"
        events = list(self.client.pages(f"{path}/events"))
        uses = list(self.client.pages(f"/v1/my/grants/{grant['grant_id']}/events"))
        return OperationTold(operation, events, uses, opened, artifact, refusals)

    async def _followed(self, application: Application, operation_id: str) -> Json:
        """Wait for the end, and say what goes on meanwhile."""
        seen = ""
        while True:
            found = await application.operation(operation_id)
            doing = found["phase"] or found["status"]
            if doing != seen:
                seen = doing
                level = f" in {found['sandbox']}, level {found['isolation']}" if doing == "running" else ""
                self.screen.note(f"  · {doing}{level}")
            if found["ended_at"] is not None:
                return found
            await asyncio.sleep(0.1)

    async def _open(self, application: Application, key: GranteeKey, artifact: Json) -> tuple[bytes, str]:
        """Download under seal, open it with the key, and try with a key of somebody else."""
        sealed = await application.download_sealed(artifact["artifact_id"], self._folder / f"{TARGET}.sealed")
        plain = self._folder / TARGET
        open_sealed(sealed, key, plain)
        self.screen.note(f"  · {sealed.stat().st_size} sealed bytes came; the application opens them with its key")
        try:
            open_sealed(sealed, GranteeKey.make(), self._folder / "stolen")
        except SealBroken:
            refused = "does not open"
        else:
            refused = "opens it"
        self.screen.note(f"  · another key {refused if refused == 'opens it' else 'does not open them'}")
        return plain.read_bytes(), refused

    async def _as_another(self, driver: str, uploads: Sequence[Json], operation: Json) -> str:
        """Look at the operation as an application with a grant of its own."""
        key = GranteeKey.make()
        grant = self._grant("Nosy neighbour", key, driver, uploads)
        async with Application(self.url, grant["grant_id"], key) as other:
            answer = await _refusal(other.operation(str(operation["operation_id"])))
        self.screen.note(f"  · another application that asks for the operation is answered {answer}")
        return answer


async def _refusal(request: Awaitable[object]) -> str:
    """Return the status with which a request is refused; 200 when it is not."""
    try:
        await request
    except Refused as refused:
        return str(refused.status)
    return "200"


def show_operation(screen: Screen, told: OperationTold, seconds: float) -> tuple[Json, list[str]]:
    """Show what came of it; return the result and what was wrong."""
    operation, problems = told.operation, told.problems()
    if told.opened is not None:
        screen.note()
        screen.note(f"{TARGET}, as the application reads it", style="bold")
        for line in told.opened.decode("utf-8", "replace").splitlines()[:12]:
            screen.note(f"  {line[:110]}")
    usage = operation["usage"] or {}
    lines = {
        "operation": f"{operation['status']} by {operation['driver']}, attempt {operation['attempt']}",
        "isolation": f"level {operation['isolation']}, {operation['sandbox']}",
        "took": f"{usage.get('seconds', 0):.1f} s, {usage.get('cpu_seconds', 0):.1f} s of processor, "
        f"at most {usage.get('peak_memory', 0) / 2**20:.0f} MiB",
        "model calls": f"{usage.get('model_calls', 0)}, {usage.get('input_tokens', 0)} tokens in, "
        f"{usage.get('output_tokens', 0)} out",
        "cost": f"${operation['cost']}",
        "events": f"{len(told.events)} of the operation, {len(told.uses)} of the grant",
        "the whole demo": f"{seconds:.1f} s",
    }
    screen.note()
    screen.note("Summary", style="bold")
    for name, text in lines.items():
        screen.note(f"  {name:<16}{text}")
    for problem in problems:
        screen.note(f"  ✗ {problem}", style="bold red")
    result: Json = {
        "driver": operation["driver"],
        "status": operation["status"],
        "isolation": operation["isolation"],
        "artifact": {"name": told.artifact.get("name"), "size": told.artifact.get("size")},
        "opened_by_grantee": told.opened is not None,
        "refusals": told.refusals,
        "model_calls": usage.get("model_calls", 0),
        "cost": operation["cost"],
    }
    return result, problems
