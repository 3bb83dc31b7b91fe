"""A real S3 service for tests: moto's server, from an environment of its own (scripts/setup-s3)."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import httpx
import pytest

from retinue.kernel import Settings

_SERVER = Path(__file__).parents[2] / ".venv-s3" / "bin" / "moto_server"
_START_SECONDS = 60.0


@contextmanager
def s3_server() -> Iterator[str]:
    """Start the service on a free loopback port; gives its URL. Skips the test where it is not installed."""
    if not _SERVER.exists():
        pytest.skip("the S3 service is not installed; scripts/setup-s3 installs it")
    with tempfile.TemporaryFile("w+") as log:
        command = [str(_SERVER), "--host", "127.0.0.1", "--port", "0"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: TextIO) -> str:
    """Wait until the service says where it listens."""
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends and process.poll() is None:
        log.seek(0)
        if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read()):
            return found[1]
        time.sleep(0.02)  # what it waits for is in another process
    log.seek(0)
    raise RuntimeError(f"the S3 service did not start:\n{log.read()}")


def make_bucket(url: str, name: str) -> None:
    """Make a bucket."""
    httpx.put(f"{url}/{name}", trust_env=False).raise_for_status()


def bucket_settings(url: str, bucket: str, data: Path, **more: Any) -> Settings:
    """Return a server's settings with its files under ``blobs/`` in a bucket of the service."""
    return Settings(
        data=data,
        blobs=f"s3://{bucket}/blobs",
        s3_endpoint=url,
        s3_region="us-east-1",
        s3_access_key_id="AKIAIOSFODNN7EXAMPLE",
        s3_secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        **more,
    )
