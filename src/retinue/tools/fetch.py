"""The tool ``http_fetch``: one page of the public web, as text."""

from __future__ import annotations

import asyncio
import codecs
import re
import ssl
import zlib
from html import unescape
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2

from retinue import __version__
from retinue.outbound import AddressRefused, Dial, OutboundTransport, Resolve, resolve, system_tls
from retinue.tools.calls import Tool, ToolContext, ToolFault, ToolOutcome
from retinue.tools.labels import Effect, Labels, Trust

LARGEST_PAGE = 2_000_000
"""Bytes of a page, after decompression."""

FETCH_SECONDS = 30.0
"""Seconds a fetch may take, redirects included."""

MOST_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEXT_TYPES = re.compile(
    r"text/.*|application/(.*\+)?(json|xml|yaml)|application/(x-)?(javascript|ndjson|yaml|toml|sql|sh)|image/svg\+xml"
)
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,500})", re.IGNORECASE)

_HIDDEN = re.compile(r"\bdisplay\s*:\s*none\b", re.IGNORECASE)

_MOST_HTML = 1_000_000
"""Characters of HTML that are looked at; their text is far longer than what the model is shown."""

# Only encodings of texts as they are found on the web. Python knows others, some of them slow to decode.
_CHARSETS = re.compile(
    r"utf-?(8|16)(-?[bl]e)?|ascii|iso-?8859-?\d+|cp125\d|koi8-[ru]|shift_jis|euc_(jp|kr)|gb(k|2312|18030)|big5"
)


class HttpFetch:
    """Fetches pages: https, port 443, public addresses, text, no cookies and no credentials.

    Args:
        allow_private: also private addresses, plain http and other ports: for tests and intranets.
        resolve: finds the addresses of a name; replaced in tests.
        dial: connects to a checked address; replaced in tests.
        tls: how certificates are checked; the system's authorities when left out.
        seconds: how long a fetch may take.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        resolve: Resolve = resolve,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
        seconds: float = FETCH_SECONDS,
    ) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._dial = dial
        self._tls = tls
        self._seconds = seconds

    async def __call__(self, _context: ToolContext, arguments: dict[str, Any]) -> ToolOutcome:
        """Fetch the page of a call's arguments."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._page(arguments["url"])
        except TimeoutError:
            raise ToolFault(f"The page did not come within {self._seconds:g} seconds.") from None
        except AddressRefused as refused:
            raise ToolFault(f"The page was not fetched: {refused}.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError) as error:
            reason = str(error) or type(error).__name__
            raise ToolFault(f"The page could not be fetched: {reason[:300]}.") from None

    async def _page(self, text: str) -> ToolOutcome:
        url = self._acceptable(text)
        if self._tls is None:
            self._tls = await asyncio.to_thread(system_tls)
        for _ in range(MOST_REDIRECTS + 1):
            # A transport a request: names are checked anew, and no connection is shared between two of them.
            async with self._client() as client, client.stream("GET", url) as response:
                target = response.headers.get("location")
                if response.status_code not in _REDIRECTS or target is None:
                    return await _outcome(url, response)
                url = self._acceptable(str(url.join(target)))
        raise ToolFault(f"The page was not fetched: more than {MOST_REDIRECTS} redirects.")

    def _client(self) -> httpx2.AsyncClient:
        transport = OutboundTransport(
            allow_private=self._allow_private,
            tls=self._tls or system_tls(),
            most_bytes=LARGEST_PAGE,
            resolve=self._resolve,
            dial=self._dial,
        )
        return httpx2.AsyncClient(
            transport=transport,
            headers={
                "User-Agent": f"Retinue/{__version__}",
                "Accept": "text/html, text/plain, application/json, application/xml;q=0.9, */*;q=0.1",
                # Of the compressed forms only this one can be unpacked piece by piece within a limit.
                "Accept-Encoding": "gzip",
            },
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=self._seconds,
            trust_env=False,
        )

    def _acceptable(self, text: str) -> httpx2.URL:
        try:
            url = httpx2.URL(text.strip())
        except (httpx2.InvalidURL, ValueError):
            raise ToolFault("That is not a URL.") from None
        if url.port is not None and not 0 < url.port < 65_536:
            raise ToolFault("That is not a URL.")
        if url.scheme != "https" and not (self._allow_private and url.scheme == "http"):
            raise ToolFault("Only https:// can be fetched.")
        if not url.host:
            raise ToolFault("The URL has no host.")
        if url.userinfo:
            raise ToolFault("The URL holds a user name or a password; those are not sent.")
        if url.port not in (None, 443) and not self._allow_private:
            raise ToolFault("Only port 443 can be reached.")
        return url.copy_with(fragment=None)


def fetch_tool(fetch: HttpFetch) -> Tool:
    """Return the tool that fetches with ``fetch``."""
    return Tool(
        name="http_fetch",
        description="Fetch a page from the public web (https) and return it as text. HTML is reduced to its text.",
        parameters={
            "type": "object",
            "properties": {
                "url": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 8000,
                    "description": "The whole address, with https://.",
                }
            },
            "required": ["url"],
            "additionalProperties": False,
        },
        labels=Labels(effect=Effect.FETCH, output=Trust.UNTRUSTED, private=False, idempotent=True),
        handler=fetch,
    )


async def _outcome(url: httpx2.URL, response: httpx2.Response) -> ToolOutcome:
    kind, _, parameters = response.headers.get("content-type", "text/plain").partition(";")
    kind = kind.strip().lower()
    if not _TEXT_TYPES.fullmatch(kind):
        raise ToolFault(f"{url} is not text but {kind[:100]}, which cannot be shown.")
    body = await _body(response)
    if b"\0" in body[:8192] and "utf-16" not in parameters.lower():
        raise ToolFault(f"{url} says it is text, but is not.")
    text = body.decode(_charset(parameters), errors="replace")
    if kind in _HTML_TYPES:
        text = await asyncio.to_thread(html_to_text, text)
    head = f"{url}\n{response.status_code} {response.reason_phrase}".rstrip()
    return ToolOutcome(f"{head}\n\n{text}", failed=response.status_code >= 400)


async def _body(response: httpx2.Response) -> bytes:
    """Read the body, unpacking gzip in pieces so that a small one cannot grow without bound (RFC 9110, 8.4.1.3)."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise ToolFault(f"The page is compressed with {coding[:50]}, which was not asked for.")
    unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if coding != "identity" else None
    body = bytearray()
    async for piece in response.aiter_raw():
        try:
            body += unpack.decompress(piece, LARGEST_PAGE + 1 - len(body)) if unpack else piece
        except zlib.error:
            raise ToolFault("The page is compressed wrongly and cannot be read.") from None
        if len(body) > LARGEST_PAGE:
            raise ToolFault(f"The page is larger than {LARGEST_PAGE:,} bytes.")
    return bytes(body)


def _charset(parameters: str) -> str:
    match = re.search(r'charset\s*=\s*"?([\w.:-]{1,40})', parameters, re.IGNORECASE)
    if match:
        try:
            name = codecs.lookup(match[1]).name
        except LookupError:
            name = ""
        if _CHARSETS.fullmatch(name):
            return name
    return "utf-8"


def html_to_text(html: str) -> str:
    """Reduce HTML to its title and its text, laid out in lines; links keep their address."""
    # Imported on first use: a server whose agents do not fetch need not load an HTML parser.
    from inscriptis import get_text  # type: ignore[import-untyped]  # it ships no types
    from inscriptis.model.config import ParserConfig  # type: ignore[import-untyped]  # it ships no types

    config = ParserConfig(display_links=True)
    # A style can ask for a margin of 100,000 spaces; the only one that is heeded is to show nothing.
    config.attribute_handler.attribute_mapping = {"style": _heed_hiding}
    html = html[:_MOST_HTML]
    lines = [line.rstrip() for line in get_text(html, config).splitlines()]
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() or "[The page has no text.]"
    title = _TITLE.search(html)
    return f"{' '.join(unescape(title[1]).split())}\n\n{body}" if title and title[1].strip() else body


def _heed_hiding(style: str, element: Any) -> None:
    from inscriptis.html_properties import Display  # type: ignore[import-untyped]  # it ships no types

    if _HIDDEN.search(style):
        element.display = Display.none
