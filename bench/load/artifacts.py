"""A large artifact up and down, and small ranges in its middle: `python -m bench.load.artifacts`."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import msgspec

from bench.load.program import Program
from bench.wire import Connection
from retinue.vault import BlobStore, sealed_size

_MEBIBYTE = 1_048_576
_RANGE = 4096
_WARM = 20
_TUS = {"Tus-Resumable": "1.0.0"}


class ArtifactOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Send `mebibytes` up, in one request or in `pieces`, and down again; then read so many `ranges`.

    `blobs` is the folder of the server's store, whose own time is measured beside.
    """

    port: int
    token: str
    mebibytes: int
    pieces: bool
    ranges: int
    blobs: str


class Artifacts(Program[ArtifactOrder]):
    """The result has seconds up and down, and the times of ranges through the server and from the store, in ms."""

    order_type: ClassVar[type[msgspec.Struct]] = ArtifactOrder

    async def prepare(self) -> None:
        headers = {"Authorization": f"Bearer {self.order.token}"}
        base = f"http://127.0.0.1:{self.order.port}"
        self._headers = headers
        self._client = httpx.AsyncClient(base_url=base, headers=headers, timeout=300, trust_env=False)
        self._piece = hashlib.sha256(b"bench").digest() * (_MEBIBYTE // 32)

    async def work(self) -> dict[str, Any]:
        started = time.perf_counter()
        artifact = await (self._in_pieces() if self.order.pieces else self._whole())
        up = time.perf_counter() - started
        started = time.perf_counter()
        count = 0
        async with self._client.stream("GET", artifact["url"]) as answer:
            async for chunk in answer.aiter_raw():
                count += len(chunk)
        down = time.perf_counter() - started
        if count != artifact["size"] or count != self.order.mebibytes * _MEBIBYTE:
            raise RuntimeError(f"{count} bytes came down")
        through, store = await self._ranges(artifact) if self.order.ranges else ([], [])
        await self._client.aclose()
        return {"up": up, "down": down, "through": through, "store": store}

    async def _whole(self) -> Any:
        async def content() -> AsyncGenerator[bytes]:
            for _ in range(self.order.mebibytes):
                yield self._piece

        headers = {"Content-Length": str(self.order.mebibytes * _MEBIBYTE)}
        answer = await self._client.post("/v1/artifacts?name=large", content=content(), headers=headers)
        return answer.raise_for_status().json()

    async def _in_pieces(self) -> Any:
        name = base64.b64encode(b"pieces").decode()
        headers = {**_TUS, "Upload-Length": str(self.order.mebibytes * _MEBIBYTE)}
        begun = await self._client.post("/v1/uploads", headers={**headers, "Upload-Metadata": f"filename {name}"})
        place = begun.raise_for_status().headers["location"]
        for offset in range(0, self.order.mebibytes, 8):
            size = min(8, self.order.mebibytes - offset)
            sent = {
                **_TUS,
                "Upload-Offset": str(offset * _MEBIBYTE),
                "Content-Type": "application/offset+octet-stream",
            }
            answer = await self._client.patch(place, content=self._piece * size, headers=sent)
            answer.raise_for_status()
        found = await self._client.get(f"/v1/artifacts/{answer.headers['retinue-artifact']}")
        return found.raise_for_status().json()

    async def _ranges(self, artifact: Any) -> tuple[list[float], list[float]]:
        """Read ranges around the middle, each through the server and from the store, in turns."""
        store = BlobStore.in_folder(Path(self.order.blobs))
        (blob,) = [one.name async for one in store.list() if one.name.endswith(artifact["artifact_id"])]
        connection = await Connection.open(self.order.port)
        middle, last = artifact["size"] // 2, sealed_size(artifact["size"])
        through: list[float] = []
        own: list[float] = []
        for n in range(self.order.ranges + _WARM):
            start = middle + n * 70_001
            headers = {**self._headers, "range": f"bytes={start}-{start + _RANGE - 1}"}
            began = time.perf_counter()
            status, body = await connection.request("GET", artifact["url"], b"", headers)
            through.append((time.perf_counter() - began) * 1000)
            if status != 206 or len(body) != _RANGE:
                raise RuntimeError(f"a range was answered with {status} and {len(body)} bytes")
            began = time.perf_counter()
            async for _piece in store.read(blob, start, min(start + _RANGE, last)):
                pass
            own.append((time.perf_counter() - began) * 1000)
        return through[_WARM:], own[_WARM:]


if __name__ == "__main__":
    Artifacts.main()
