"""Uploads to a bucket that were begun and never ended: found and removed.

A killed process leaves the parts it has sent; they are invisible and cost money. obstore has no call for this, so
these two requests are made and signed here (AWS Signature Version 4).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import httpx

from retinue.kernel import Unavailable

_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
_MOST_PAGES = 100
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the key for it.

    Attributes:
        url: the bucket's address, the bucket as the first part of its path.
        prefix: what the names in the bucket begin with that are ours; may be empty.
        region: the bucket's region.
        key_id: the key's id.
        secret: the key.
        token: the session token of a key that is lent for a time.
    """

    url: str
    prefix: str
    region: str
    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Begun:
    key: str
    upload_id: str
    at: datetime


async def abort_uploads(bucket: Bucket, before: datetime) -> int:
    """Remove the parts of uploads that were begun before a time and never ended; return how many uploads there were.

    Raises:
        Unavailable: the service does not answer or refuses.
    """
    count = 0
    async with httpx.AsyncClient(timeout=_SECONDS) as client:
        try:
            for one in await _begun(client, bucket):
                if one.at < before:
                    await _send(client, bucket, "DELETE", one.key, {"uploadId": one.upload_id})
                    count += 1
        except httpx.HTTPError as error:
            raise Unavailable("The file store does not answer as it should. Try again later.") from error
    return count


async def _begun(client: httpx.AsyncClient, bucket: Bucket) -> list[_Begun]:
    """Return the uploads that are under way (ListMultipartUploads)."""
    found: list[_Begun] = []
    query = {"uploads": "", "prefix": f"{bucket.prefix}/" if bucket.prefix else ""}
    for _page in range(_MOST_PAGES):
        page = ElementTree.fromstring(await _send(client, bucket, "GET", "", query))
        for upload in page.iterfind(f"{_NAMESPACE}Upload"):
            at = datetime.fromisoformat(_text(upload, "Initiated"))
            found.append(_Begun(_text(upload, "Key"), _text(upload, "UploadId"), at))
        if _text(page, "IsTruncated") != "true":
            break
        query |= {"key-marker": _text(page, "NextKeyMarker"), "upload-id-marker": _text(page, "NextUploadIdMarker")}
    return found


def _text(element: ElementTree.Element, name: str) -> str:
    return element.findtext(f"{_NAMESPACE}{name}") or ""


async def _send(client: httpx.AsyncClient, bucket: Bucket, method: str, key: str, query: dict[str, str]) -> bytes:
    address = f"{bucket.url}/{quote(key)}" if key else bucket.url
    asked = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items()))
    headers = signed(bucket, method, address, asked, datetime.now(UTC))
    response = await client.request(method, f"{address}?{asked}", headers=headers)
    if response.status_code != httpx.codes.NOT_FOUND or method != "DELETE":  # somebody else may have been quicker
        response.raise_for_status()
    return response.content


def signed(bucket: Bucket, method: str, address: str, query: str, now: datetime) -> dict[str, str]:
    """Return the headers that sign a request without a body (AWS Signature Version 4).

    Args:
        bucket: whose key signs.
        method: the HTTP method.
        address: the URL without its query.
        query: the query, escaped and in the order of its names.
        now: the time of the request.
    """
    parts, stamp = urlsplit(address), now.strftime("%Y%m%dT%H%M%SZ")
    headers = {"host": parts.netloc, "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(), "x-amz-date": stamp}
    if bucket.token is not None:
        headers["x-amz-security-token"] = bucket.token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = "\n".join([method, parts.path or "/", query, lines, names, headers["x-amz-content-sha256"]])
    scope = f"{stamp[:8]}/{bucket.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{bucket.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={bucket.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
