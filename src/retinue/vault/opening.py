"""Which blob store the settings ask for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import S3Store

from retinue.kernel import Settings
from retinue.vault.blobs import BlobStore

if TYPE_CHECKING:  # obstore offers these to type checkers only
    from obstore.store import ClientConfig, RetryConfig, S3Config

_CONNECT = timedelta(seconds=5)
_REQUEST = timedelta(seconds=60)
_RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}


def open_blobs(settings: Settings) -> BlobStore:
    """Return the store that ``RETINUE_BLOBS`` names: a folder, or ``s3://bucket/prefix``. A bucket is not asked yet.

    Raises:
        ValueError: the setting names no store that there is; the message says what it may be.
    """
    url = settings.blobs
    if not url:
        return BlobStore.in_folder(settings.data / "blobs")
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return BlobStore.in_folder(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and not (parts.query or parts.fragment or parts.username):
        return BlobStore(_bucket(settings, parts.netloc, parts.path.strip("/")))
    raise ValueError("RETINUE_BLOBS must be empty, file:///folder or s3://bucket/prefix.")


def _bucket(settings: Settings, bucket: str, prefix: str) -> S3Store:
    """Return the bucket; what is not set is looked for where Amazon's programs do: environment, role of the machine."""
    config: S3Config = {}
    if settings.s3_endpoint is not None:
        config["endpoint"] = settings.s3_endpoint
    if settings.s3_region is not None:
        config["region"] = settings.s3_region
    if settings.s3_access_key_id is not None and settings.s3_secret_access_key is not None:
        config["access_key_id"] = settings.s3_access_key_id
        config["secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
        if settings.s3_session_token is not None:
            config["session_token"] = settings.s3_session_token.get_secret_value()
    plain = (settings.s3_endpoint or "").startswith("http://")
    # A request moves 5 MiB at most, so a bound on the whole of it harms nobody, and a silent service is given up.
    client: ClientConfig = {"allow_http": plain, "connect_timeout": _CONNECT, "timeout": _REQUEST}
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=client, retry_config=_RETRY)
