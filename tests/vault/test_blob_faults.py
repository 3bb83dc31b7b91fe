"""Blob stores when things go wrong: a full disk, a killed process, a store that lies, refuses or stops answering."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retinue.kernel import Settings, StorageFull, Unavailable
from retinue.vault import BlobStore, Chunk, blobs, open_blobs, opening
from retinue.vault.s3_uploads import Bucket, signed
from tests.support.s3_server import bucket_settings
from tests.vault.blob_writer import MEBIBYTE, files, some

pytestmark = pytest.mark.fault

ROOT = Path(__file__).parents[2]
WRITER = [sys.executable, "-m", "tests.vault.blob_writer"]


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# The disk


def test_a_full_disk_refuses_leaves_no_half_and_recovers(tmp_path: Path) -> None:
    """A real file system of 24 MiB, in a mount namespace of its own."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    mount = f'mount -t tmpfs -o size=24m tmpfs "{tmp_path}" && exec "$@"'
    said = run(*unshare, "sh", "-c", mount, "sh", *WRITER, "full", str(tmp_path), str(24 * MEBIBYTE))
    assert "refused, and recovered" in said


def test_a_limit_on_the_size_of_files_refuses_and_leaves_no_half(tmp_path: Path) -> None:
    assert "refused, and recovered" in run(*WRITER, "limited", str(tmp_path), str(8 * MEBIBYTE))


async def test_what_a_killed_process_left_is_invisible_and_swept(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(*WRITER, "endless", str(tmp_path), cwd=ROOT, stdout=PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"writing\n"
    finally:
        process.kill()
        await process.communicate()
    store = BlobStore.in_folder(tmp_path)
    await store.put("a/two", some(MEBIBYTE))
    left = [name for name in files(tmp_path) if name != "a/two"]
    assert len(left) == 1
    assert left[0].startswith("a/one#")
    assert [blob.name async for blob in store.list()] == ["a/two"]
    assert not await store.exists("a/one")
    assert await store.sweep(3600) == 0, "an upload that goes on elsewhere was swept away"
    assert await store.sweep(-60) == 1
    assert files(tmp_path) == ["a/two"]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 256 MiB, sealed, stored, read and opened, takes no more than one of 16 MiB; measured from outside."""
    assert int(run(*WRITER, "growth", str(tmp_path))) < 24 * MEBIBYTE


async def test_a_folder_that_cannot_be_written_is_an_answer_to_try_again(tmp_path: Path) -> None:
    store = BlobStore.in_folder(tmp_path / "blobs")
    (tmp_path / "blobs").rmdir()
    (tmp_path / "blobs").write_text("no folder any more")
    with pytest.raises(Unavailable) as refused:
        await store.put("a/one", some(MEBIBYTE))
    assert str(tmp_path) not in refused.value.detail
    with pytest.raises(Unavailable):
        await store.size("a/one")


async def test_an_acknowledged_blob_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and every folder that leads to it are flushed before the answer: a power cut takes nothing back."""
    flushed, real = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    await BlobStore.in_folder(tmp_path / "blobs").put("a/one", some(MEBIBYTE))
    assert flushed == [str(tmp_path / "blobs" / "a" / "one"), str(tmp_path / "blobs" / "a"), str(tmp_path / "blobs")]


async def test_a_folder_that_keeps_less_than_it_was_given_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real = BlobStore.in_folder(tmp_path), blobs._Upload.finish

    async def loses_the_end(upload: blobs._Upload) -> None:
        await real(upload)
        os.truncate(tmp_path / "a" / "one", MEBIBYTE - 1)

    monkeypatch.setattr(blobs._Upload, "finish", loses_the_end)
    with pytest.raises(Unavailable):
        await store.put("a/one", some(MEBIBYTE))
    assert files(tmp_path) == []


# A service


class Service:
    """An S3 service that answers as the test says, and keeps a list of what it was asked."""

    def __init__(self, answer: Callable[[str, str], tuple[int, str]]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.url = ""
        self._answer = answer
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Service:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while head := await self._head(reader):
            method, target, _version = head.decode().split("\r\n")[0].split()
            length = re.search(r"content-length: (\d+)", head.decode(), re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            self.asked.append((method, target))
            status, body = self._answer(method, target)
            size = body if method == "HEAD" and status == 200 else str(len(body))
            writer.write(
                f'HTTP/1.1 {status} X\r\nContent-Length: {size}\r\nETag: "x"\r\n'
                "Last-Modified: Wed, 21 Oct 2026 07:28:00 GMT\r\n\r\n".encode()
            )
            writer.write(b"" if method == "HEAD" else body.encode())
            await writer.drain()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""  # the client is done


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer attempts, so that a refusal comes soon."""
    monkeypatch.setattr(opening, "_RETRY", {"max_retries": 1, "retry_timeout": timedelta(seconds=5)})


def store_of(service: Service, tmp_path: Path) -> BlobStore:
    return open_blobs(bucket_settings(service.url, "files", tmp_path))


FULL = "<Error><Code>XMinioStorageFull</Code><Message>Storage backend has reached its minimum</Message></Error>"


@pytest.mark.parametrize(
    "status, body, fault",
    [
        (403, "<Error><Code>AccessDenied</Code></Error>", Unavailable),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", Unavailable),
        (500, "", Unavailable),
        (503, "<Error><Code>SlowDown</Code></Error>", Unavailable),
        (507, FULL, StorageFull),
    ],
)
@pytest.mark.parametrize("size", [1, 12])
async def test_a_service_that_refuses_is_said_to(
    tmp_path: Path, status: int, body: str, fault: type[Exception], size: int
) -> None:
    async with Service(lambda _method, _target: (status, body)) as service:
        with pytest.raises(fault) as refused:
            await store_of(service, tmp_path).put("a/one", some(size * MEBIBYTE))
    said = str(refused.value)
    assert "EXAMPLE" not in said
    assert "127.0.0.1" not in said


async def test_a_service_that_is_not_there_is_said_to(tmp_path: Path) -> None:
    async with Service(lambda _method, _target: (200, "")) as service:
        store = store_of(service, tmp_path)
    with pytest.raises(Unavailable):
        await store.put("a/one", some(MEBIBYTE))
    with pytest.raises(Unavailable):
        await anext(store.read("a/one", 0, 1))
    with pytest.raises(Unavailable):
        await store.delete("a/one")
    with pytest.raises(Unavailable):
        _blobs = [blob async for blob in store.list()]
    with pytest.raises(Unavailable):
        await store.sweep(0)


async def test_a_service_that_keeps_less_than_it_was_given_is_noticed_and_what_it_kept_removed(tmp_path: Path) -> None:
    """It answers 200 to everything; only the size that it tells afterwards is wrong."""

    def answer(method: str, _target: str) -> tuple[int, str]:
        return 200, str(MEBIBYTE - 1) if method == "HEAD" else ""

    async with Service(answer) as service:
        with pytest.raises(Unavailable):
            await store_of(service, tmp_path).put("a/one", some(MEBIBYTE))
    assert service.asked == [(method, "/files/blobs/a/one") for method in ("PUT", "HEAD", "DELETE")]


async def test_a_service_that_fails_in_the_middle_is_told_to_forget_the_upload(tmp_path: Path) -> None:
    begun = "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"

    def answer(method: str, target: str) -> tuple[int, str]:
        if method == "POST" and "?uploads" in target:
            return 200, begun
        return (204, "") if method == "DELETE" else (500, "")

    async with Service(answer) as service:
        with pytest.raises(Unavailable):
            await store_of(service, tmp_path).put("a/one", some(40 * MEBIBYTE))
    assert ("DELETE", "/files/blobs/a/one?uploadId=u1") in service.asked


async def test_only_uploads_that_are_old_enough_are_swept_page_by_page(tmp_path: Path) -> None:
    def page(key: str, ago: timedelta, more: bool) -> str:
        at = (datetime.now(UTC) - ago).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            '<ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated><NextKeyMarker>{key}</NextKeyMarker>"
            f"<NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>{key}</Key><UploadId>u/{key}</UploadId>"
            f"<Initiated>{at}</Initiated></Upload></ListMultipartUploadsResult>"
        )

    def answer(method: str, target: str) -> tuple[int, str]:
        if method == "DELETE":
            return 204, ""
        if "key-marker" in target:
            return 200, page("blobs/a/new", timedelta(minutes=59), False)
        return 200, page("blobs/a/old", timedelta(minutes=61), True)

    async with Service(answer) as service:
        assert await store_of(service, tmp_path).sweep(3600) == 1
    assert service.asked == [
        ("GET", "/files?prefix=blobs%2F&uploads="),
        ("GET", "/files?key-marker=blobs%2Fa%2Fold&prefix=blobs%2F&upload-id-marker=u&uploads="),
        ("DELETE", "/files/blobs/a/old?uploadId=u%2Fblobs%2Fa%2Fold"),
    ]


def test_requests_are_signed_as_amazons_example_is() -> None:
    """The example "GET Bucket Lifecycle" in Amazon's documentation of Signature Version 4."""
    bucket = Bucket(
        "https://examplebucket.s3.amazonaws.com",
        "",
        "us-east-1",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    headers = signed(bucket, "GET", bucket.url, "lifecycle=", datetime(2013, 5, 24, tzinfo=UTC))
    assert headers["authorization"].rpartition("=")[2] == (
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )
    assert bucket.secret not in repr(bucket)


# Settings


@pytest.mark.parametrize(
    "url", ["/var/blobs", "file:blobs", "file://host/blobs", "s3://", "http://x/y", "s3://a:b@c/d", "s3://a/b?c=d"]
)
def test_a_setting_that_names_no_store_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="RETINUE_BLOBS") as refused:
        open_blobs(Settings(data=tmp_path, blobs=url))
    assert "a:b" not in str(refused.value)


async def test_files_lie_in_the_data_folder_or_where_the_setting_says(tmp_path: Path) -> None:
    async def one() -> AsyncGenerator[Chunk]:
        yield b"x"

    await open_blobs(Settings(data=tmp_path / "data")).put("a/one", one())
    await open_blobs(Settings(data=tmp_path / "data", blobs=f"file://{tmp_path}/a%20b")).put("a/two", one())
    assert files(tmp_path) == ["a b/a/two", "data/blobs/a/one"]
    assert (tmp_path / "data" / "blobs").stat().st_mode & 0o077 == 0
