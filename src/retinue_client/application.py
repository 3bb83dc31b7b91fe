"""An application's view of a Retinue server: upload, operate, wait, and take the results home."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from uuid import UUID, uuid4

import httpx

from retinue_client.failures import Refused
from retinue_client.keys import GranteeKey, Signer
from retinue_client.sealed import SealedHeader, open_sealed
from retinue_client.signing import SignedRequests

ENDED = frozenset({"completed", "failed", "cancelled", "timed_out"})
PIECE = 8 * 1024 * 1024
"""Bytes of a piece of an upload."""

_TUS = {"Tus-Resumable": "1.0.0"}
_PAUSES = (0.2, 0.5, 1.0, 2.0)


class Application:
    """The server as an application sees it that acts by one grant.

    Every method raises :class:`Refused` when the server says no, and ``httpx.HTTPError`` when it cannot be reached.
    Use it as ``async with``, or call :meth:`close`.

    Args:
        base_url: where the server is, such as ``https://agents.example.com``.
        grant_id: the grant.
        signer: the key that the grant names.
        timeout: seconds without an answer.
        transport: another transport than the network, for tests.
    """

    def __init__(
        self,
        base_url: str,
        grant_id: UUID | str,
        signer: Signer,
        *,
        timeout: float = 60,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.grant_id = str(grant_id)
        self._signer = signer
        self.http = httpx.AsyncClient(
            base_url=base_url,
            auth=SignedRequests(signer, grant_id),
            timeout=timeout,
            transport=transport,
            headers={"Accept": "application/json"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    # The grant

    async def grant(self) -> dict[str, Any]:
        """Return the grant: what it allows, whether it is ``active``, and how much of it is used."""
        return await self._json("GET", "/v1/grant")

    # Operations

    async def operate(
        self,
        driver: str,
        goal: str,
        *,
        inputs: Sequence[str | Mapping[str, str]] = (),
        idempotency_key: str | None = None,
        **wanted: Any,
    ) -> dict[str, Any]:
        """Ask for an operation and return it as it was accepted; it goes on by itself.

        Args:
            driver: which agent or program works, such as ``qwen``, ``gemini`` or ``command``.
            goal: what is to be done, in words.
            inputs: artifacts to work on: ids, or ``{"artifact_id": ..., "name": its name in the workspace}``.
            idempotency_key: sent twice, the operation is made once; random by default, for the tries of this call.
            wanted: the other fields of ``POST /v1/operations``, such as ``parameters``, ``limits``, ``budget``.
        """
        given = [{"artifact_id": one} if isinstance(one, str) else dict(one) for one in inputs]
        body = {"driver": driver, "goal": goal, "inputs": given, **wanted}
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
        return await self._json("POST", "/v1/operations", tries=3, json=body, headers=headers)

    async def operation(self, operation_id: str) -> dict[str, Any]:
        """Return an operation: its status, usage, cost, and what is known of its artifacts."""
        return await self._json("GET", f"/v1/operations/{operation_id}")

    async def wait(self, operation_id: str, seconds: float = 660) -> dict[str, Any]:
        """Return an operation once it has ended, well or not.

        Raises:
            TimeoutError: it goes on after ``seconds``.
        """
        deadline, n = time.monotonic() + seconds, 0
        while (found := await self.operation(operation_id))["status"] not in ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the operation {operation_id} is {found['status']} after {seconds} s")
            await asyncio.sleep(_PAUSES[min(n, len(_PAUSES) - 1)])
            n += 1
        return found

    async def cancel(self, operation_id: str) -> None:
        """Stop an operation."""
        await self._send("POST", f"/v1/operations/{operation_id}/cancel")

    # Artifacts

    async def upload(
        self, source: str | os.PathLike[str] | bytes, name: str | None = None, *, piece: int = PIECE
    ) -> dict[str, Any]:
        """Upload a file, and return what is known of the artifact it became. A large one goes in pieces (tus 1.0).

        Each piece is signed for itself, and what is safe is not sent again when a connection breaks.

        Args:
            source: the file, or its content.
            name: what it is called; the file's own name by default.
            piece: bytes of a piece, which are in memory at one time.

        Raises:
            ValueError: content without a name.
        """
        if isinstance(source, bytes):
            if name is None:
                raise ValueError("give the content a name")
            return await self._upload(io.BytesIO(source), len(source), name, piece)
        path = Path(source)
        with await asyncio.to_thread(path.open, "rb") as file:
            return await self._upload(file, os.fstat(file.fileno()).st_size, name or path.name, piece)

    async def _upload(self, file: BinaryIO, size: int, name: str, piece: int) -> dict[str, Any]:
        if size <= piece:
            content = await asyncio.to_thread(file.read)
            kind = {"Content-Type": "application/octet-stream", "Idempotency-Key": str(uuid4())}
            params = {"name": name}
            return await self._json("POST", "/v1/artifacts", tries=3, params=params, content=content, headers=kind)
        named = f"filename {base64.b64encode(name.encode()).decode()}"
        begun = await self._send(
            "POST", "/v1/uploads", headers={**_TUS, "Upload-Length": str(size), "Upload-Metadata": named}
        )
        url, offset, broken = begun.headers["location"], 0, 0
        while offset < size:
            await asyncio.to_thread(file.seek, offset)
            content = await asyncio.to_thread(file.read, piece)
            if not content:
                raise ValueError(f"{name} became shorter while it was sent")
            headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            try:
                answer = await self._send("PATCH", url, content=content, headers=headers)
                broken = 0
            except httpx.TransportError:
                broken += 1
                if broken > len(_PAUSES):
                    raise
                await asyncio.sleep(_PAUSES[broken - 1])
                answer = await self._send("HEAD", url, tries=3, headers=_TUS)
            offset = int(answer.headers["upload-offset"])
        return await self._json("GET", f"/v1/artifacts/{await self._finished(url)}")

    async def _finished(self, url: str) -> str:
        """Wait until an upload, all of which has come, is an artifact."""
        while (upload := await self._json("GET", url))["state"] == "finishing":  # noqa: ASYNC110 - it is elsewhere
            await asyncio.sleep(0.2)
        if upload["state"] != "stored":
            raise Refused(422, {"type": "urn:retinue:problem:upload-refused", "detail": upload["problem"]})
        return str(upload["artifact_id"])

    async def artifacts(self, operation_id: str | None = None) -> list[dict[str, Any]]:
        """Return what is known of the artifacts of an operation, or of all that belong to the grant."""
        params = {"limit": "200"} | ({"operation_id": operation_id} if operation_id else {})
        return [one async for one in self._pages("/v1/artifacts", params)]

    async def read(self, artifact_id: str) -> bytes:
        """Return a small artifact's content, decrypted by the server."""
        answer = await self._send("GET", f"/v1/artifacts/{artifact_id}/content")
        return answer.content

    async def download(self, artifact_id: str, target: str | os.PathLike[str]) -> Path:
        """Write an artifact's content, decrypted by the server, to a new file. Constant memory.

        Raises:
            FileExistsError: there is a file at ``target``.
        """
        return await self._save(f"/v1/artifacts/{artifact_id}/content", Path(target))

    async def download_sealed(self, artifact_id: str, target: str | os.PathLike[str]) -> Path:
        """Write an artifact as the server stores it, sealed, to a new file; :func:`open_sealed` opens it.

        Raises:
            FileExistsError: there is a file at ``target``.
        """
        return await self._save(f"/v1/artifacts/{artifact_id}/sealed", Path(target))

    async def fetch(self, artifact_id: str, target: str | os.PathLike[str]) -> SealedHeader:
        """Download an artifact sealed and open it here, so that it crosses the network under seal.

        Raises:
            SealBroken: it was changed on the way, or is not sealed to this application's key.
            TypeError: this application signs with a wallet, which opens nothing.
            FileExistsError: there is a file at ``target``.
        """
        if not isinstance(self._signer, GranteeKey):
            raise TypeError("a wallet cannot open sealed files; use `download`")
        target = Path(target)
        sealed = target.with_name(f".{target.name}.{uuid4().hex[:8]}.sealed")
        try:
            await self.download_sealed(artifact_id, sealed)
            return await asyncio.to_thread(open_sealed, sealed, self._signer, target)
        finally:
            sealed.unlink(missing_ok=True)

    async def delete(self, artifact_id: str) -> None:
        """Delete an artifact: its key is destroyed, and with it every copy."""
        await self._send("DELETE", f"/v1/artifacts/{artifact_id}")

    # Requests

    async def _send(self, method: str, path: str, *, tries: int = 1, **request: Any) -> httpx.Response:
        """Send a request, each try with a signature of its own, and return the answer."""
        for left in range(tries - 1, -1, -1):
            try:
                answer = await self.http.request(method, path, **request)
            except httpx.TransportError:
                if left == 0:
                    raise
                await asyncio.sleep(0.2)
                continue
            _raise_for(answer)
            return answer
        raise AssertionError("at least one try")

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await self._send(method, path, **request)).json()
        return found

    async def _pages(self, path: str, params: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = await self._json("GET", path, params={**params, **({"cursor": cursor} if cursor else {})})
            for item in page["items"]:
                yield item
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    async def _save(self, path: str, target: Path) -> Path:
        async with self.http.stream("GET", path) as answer:
            if not answer.is_success:
                await answer.aread()
                _raise_for(answer)
            out = await asyncio.to_thread(_new_file, target)
            try:
                async for piece in answer.aiter_bytes():
                    await asyncio.to_thread(out.write, piece)
            except BaseException:
                out.close()
                os.unlink(target)
                raise
            await asyncio.to_thread(out.close)
        return target


def _new_file(target: Path) -> BinaryIO:
    return os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _raise_for(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    problem: Any = None
    if "json" in answer.headers.get("content-type", ""):
        problem = answer.json()
    raise Refused(answer.status_code, problem if isinstance(problem, dict) else {})
