"""Which blob store the settings ask for."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import S3Store

from retinue.kernel import Settings
from retinue.vault.blobs import BlobStore, Sweep
from retinue.vault.s3_uploads import Bucket, abort_uploads

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
        return _bucket(settings, parts.netloc, parts.path.strip("/"))
    raise ValueError("RETINUE_BLOBS must be empty, file:///folder or s3://bucket/prefix.")


def _bucket(settings: Settings, name: str, prefix: str) -> BlobStore:
    """Open a bucket; what is not set is looked for where Amazon's programs do: environment, role of the machine."""
    endpoint = (settings.s3_endpoint or "").rstrip("/")
    config: S3Config = {"disable_bulk_delete": True}  # not every service has it, and we delete one by one
    if endpoint:
        config["endpoint"] = endpoint
    if settings.s3_region is not None:
        config["region"] = settings.s3_region
    if settings.s3_access_key_id is not None and settings.s3_secret_access_key is not None:
        config["access_key_id"] = settings.s3_access_key_id
        config["secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
        if settings.s3_session_token is not None:
            config["session_token"] = settings.s3_session_token.get_secret_value()
    # A request moves 5 MiB at most, so a bound on the whole of it harms nobody, and a silent service is given up.
    client: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": _CONNECT,
        "timeout": _REQUEST,
    }
    store = S3Store(name, prefix=prefix or None, config=config, client_options=client, retry_config=_RETRY)
    return BlobStore(store, sweep=_sweep(store.config, endpoint, name, prefix))


def _sweep(config: S3Config, endpoint: str, name: str, prefix: str) -> Sweep | None:
    """Return what removes abandoned uploads, if there is a key that the requests for it can be signed with."""
    if "access_key_id" not in config or "secret_access_key" not in config:
        return None
    region = config.get("region", "us-east-1")
    url = f"{endpoint or f'https://s3.{region}.amazonaws.com'}/{name}"
    token = config.get("session_token")
    bucket = Bucket(url, prefix, region, config["access_key_id"], config["secret_access_key"], token)
    return partial(abort_uploads, bucket)
