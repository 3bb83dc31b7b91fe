"""Fetching pages: over real TLS, and never where it must not go."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest
from anyio.abc import ByteStream

from retinue.kernel import Address, address_refusal
from retinue.outbound.connecting import dial
from retinue.tools import Effect, ToolContext, ToolOutcome, Trust
from retinue.tools.fetch import LARGEST_PAGE, HttpFetch, fetch_tool, html_to_text
from tests.support.web import Page, WebServer, client_tls, moved

PUBLIC = "93.184.216.34"

CLOSED = [
    "0.0.0.0",  # noqa: S104  # refused, not bound
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::169.254.169.254",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("text", CLOSED)
def test_addresses_that_are_closed(text: str) -> None:
    assert address_refusal(ip_address(text))


@pytest.mark.parametrize("text", [PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80f::200e"])
def test_addresses_that_are_open(text: str) -> None:
    assert address_refusal(ip_address(text)) is None


@pytest.mark.parametrize(
    "text, closed",
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("10.0.0.1", False),
        ("fc00::1", False),
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("64:ff9b::169.254.169.254", True),
        ("2002:a9fe:a9fe::", True),
        ("168.63.129.16", True),
        ("100.100.100.200", True),
        ("fd00:ec2::254", True),
        ("fe80::1%2", True),
        ("224.0.0.1", True),
    ],
)
def test_private_addresses_can_be_opened_but_not_where_credentials_are(text: str, closed: bool) -> None:
    assert bool(address_refusal(ip_address(text), allow_private=True)) is closed


class Names:
    """A name server that tests write; each name has a list of answers, the last of which stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = {name.replace("_", "."): given for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.get(host, [[]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Detour:
    """Connects to the test's server instead of a public address, and notes which address it was to be."""

    def __init__(self, site: WebServer, connected: list[str]) -> None:
        self._site = site
        self._connected = connected

    async def __call__(self, address: Address, port: int) -> ByteStream:
        assert port == 443
        self._connected.append(str(address))
        return await dial(ip_address("127.0.0.1"), self._site.port)


class World:
    """A site, a name server and a fetch that goes through both."""

    def __init__(self, site: WebServer, names: Names) -> None:
        self.site = site
        self.names = names
        self.connected: list[str] = []
        self.fetch = HttpFetch(allow_private=False, resolve=names, dial=Detour(site, self.connected), tls=client_tls())


@pytest.fixture
def site() -> Iterator[WebServer]:
    """An empty https server."""
    with WebServer({}) as server:
        yield server


@pytest.fixture
def world(site: WebServer) -> World:
    """A world in which public.example and other.example are public."""
    return World(site, Names(public_example=[[PUBLIC]], other_example=[["8.8.8.8"]]))


@pytest.fixture
def get(context: ToolContext) -> Callable[[HttpFetch, str], asyncio.Future[ToolOutcome]]:
    """Call the tool."""

    def call(fetch: HttpFetch, url: str) -> asyncio.Future[ToolOutcome]:
        return asyncio.ensure_future(fetch_tool(fetch).run(context, {"url": url}))

    return call


Get = Callable[[HttpFetch, str], "asyncio.Future[ToolOutcome]"]


def test_labels() -> None:
    labels = fetch_tool(HttpFetch(allow_private=False)).labels
    assert (labels.effect, labels.output) == (Effect.FETCH, Trust.UNTRUSTED)


async def test_a_page_of_a_public_site(world: World, get: Get) -> None:
    world.site.pages["/a?b=c"] = Page("<title>Grüße</title><p>Hallo <b>Welt</b>".encode(), "text/html; charset=utf-8")
    outcome = await get(world.fetch, "https://public.example/a?b=c#part")
    assert outcome == ToolOutcome("https://public.example/a?b=c\n200 OK\n\nGrüße\n\nHallo Welt")
    assert world.connected == [PUBLIC]
    (seen,) = world.site.seen
    assert seen.headers["host"] == "public.example"
    assert seen.headers["user-agent"].startswith("Retinue/")
    assert not seen.headers.keys() & {"cookie", "authorization"}


async def test_the_certificate_must_be_for_the_name(site: WebServer, get: Get) -> None:
    site.pages["/"] = Page(b"secret")
    world = World(site, Names(impostor_example=[[PUBLIC]]))
    outcome = await get(world.fetch, "https://impostor.example/")
    assert outcome.failed
    assert "ertificate" in outcome.content
    assert site.seen == []


async def test_the_name_is_asked_once_and_the_checked_address_is_used(site: WebServer, get: Get) -> None:
    """DNS rebinding: a second question would get a loopback address."""
    site.pages["/"] = Page(b"page")
    world = World(site, Names(public_example=[[PUBLIC], ["127.0.0.1"]]))
    assert not (await get(world.fetch, "https://public.example/")).failed
    assert world.names.asked == ["public.example"]
    assert world.connected == [PUBLIC]
    again = await get(world.fetch, "https://public.example/")
    assert again.failed
    assert world.connected == [PUBLIC]


@pytest.mark.parametrize("address", CLOSED)
async def test_a_name_that_leads_to_a_closed_address(site: WebServer, get: Get, address: str) -> None:
    world = World(site, Names(inside_example=[[PUBLIC, address]]))
    outcome = await get(world.fetch, "https://inside.example/")
    assert outcome.failed
    assert address not in outcome.content, "a refusal does not tell where a name leads"
    assert world.connected == []


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://localhost/",
        "https://localhost./",
        "https://LOCALHOST/",
    ],
)
async def test_addresses_in_any_spelling(site: WebServer, get: Get, url: str) -> None:
    connected: list[str] = []
    fetch = HttpFetch(allow_private=False, dial=Detour(site, connected), tls=client_tls())
    assert (await get(fetch, url)).failed
    assert connected == []


@pytest.mark.parametrize(
    "url, said",
    [
        ("http://public.example/", "https"),
        ("ftp://public.example/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://public.example/", "https"),
        ("//public.example/", "https"),
        ("public.example", "https"),
        ("https://", "host"),
        ("https:///path", "host"),
        ("https://public.example:8443/", "443"),
        ("https://public.example:22/", "443"),
        ("https://user:password@public.example/", "password"),
        ("https://user@public.example/", "password"),
        ("https://public.example:99999/", "URL"),
        ("https://[::1", "URL"),
        ("https://public.example/\r\nHost: x", "URL"),
        ("https://exa mple/", "no address"),
    ],
)
async def test_urls_that_are_refused(world: World, get: Get, url: str, said: str) -> None:
    outcome = await get(world.fetch, url)
    assert outcome.failed
    assert said in outcome.content
    assert world.connected == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(world: World, get: Get, status: int) -> None:
    world.site.pages["/"] = moved("https://other.example/there", status)
    world.site.pages["/there"] = moved("here", status)
    world.site.pages["/here"] = Page(b"arrived")
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.content == "https://other.example/here\n200 OK\n\narrived"
    assert world.connected == [PUBLIC, "8.8.8.8", "8.8.8.8"]


@pytest.mark.parametrize(
    "target",
    [
        "https://169.254.169.254/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "http://public.example/",
        "https://public.example:8080/",
        "https://u:p@public.example/",
        "file:///etc/passwd",
        "https://inside.example/",
        "//127.0.0.1/",
        "\\\\127.0.0.1\\",
        "https://",
    ],
)
async def test_redirects_are_checked_like_urls(site: WebServer, get: Get, target: str) -> None:
    world = World(site, Names(public_example=[[PUBLIC]], inside_example=[["10.0.0.1"]]))
    site.pages["/"] = moved(target)
    assert (await get(world.fetch, "https://public.example/")).failed
    assert set(world.connected) == {PUBLIC}
    assert all(seen.headers["host"] == "public.example" for seen in site.seen)


async def test_a_name_that_turns_private_between_redirects(site: WebServer, get: Get) -> None:
    world = World(site, Names(public_example=[[PUBLIC], ["127.0.0.1"]]))
    site.pages["/"] = moved("/again")
    site.pages["/again"] = Page(b"inside")
    assert (await get(world.fetch, "https://public.example/")).failed
    assert world.connected == [PUBLIC]


async def test_redirects_in_a_circle_end(world: World, get: Get) -> None:
    world.site.pages["/"] = moved("/")
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.failed
    assert "redirects" in outcome.content
    assert len(world.connected) == 6


async def test_cookies_are_neither_kept_nor_sent(world: World, get: Get) -> None:
    world.site.pages["/"] = Page(status=302, headers={"Location": "/next", "Set-Cookie": "id=1; Path=/"})
    world.site.pages["/next"] = Page(b"ok")
    assert not (await get(world.fetch, "https://public.example/")).failed
    assert all("cookie" not in seen.headers for seen in world.site.seen)


async def test_an_error_page_is_shown_as_a_failure(world: World, get: Get) -> None:
    outcome = await get(world.fetch, "https://public.example/missing")
    assert outcome.failed
    assert "404 Not Found\n\nnot here" in outcome.content


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/zip", "video/mp4", "text"])
async def test_what_is_not_text_is_not_shown(world: World, get: Get, kind: str) -> None:
    world.site.pages["/"] = Page(b"x", kind)
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.failed
    assert kind in outcome.content


@pytest.mark.parametrize(
    "kind",
    ["text/csv", "application/json", "application/problem+json", "application/xhtml+xml", "TEXT/PLAIN", None],
)
async def test_texts_of_many_kinds(world: World, get: Get, kind: str | None) -> None:
    world.site.pages["/"] = Page(b"<p>some text</p>", kind)
    outcome = await get(world.fetch, "https://public.example/")
    assert not outcome.failed
    assert "some text" in outcome.content


async def test_text_that_is_none(world: World, get: Get) -> None:
    world.site.pages["/"] = Page(b"\0\1\2", "text/plain")
    assert (await get(world.fetch, "https://public.example/")).failed


@pytest.mark.parametrize(
    "charset, body, text",
    [
        ("iso-8859-1", "é".encode("latin-1"), "é"),
        ("utf-16", "é".encode("utf-16"), "é"),
        ("shift_jis", "日本".encode("shift_jis"), "日本"),
        ("no-such-charset", "é".encode(), "é"),
        ("rot13", b"uryyb", "uryyb"),
        ("unicode_escape", b"\\x41", "\\x41"),
        ("utf-8", b"a\xff", "a\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_charsets(world: World, get: Get, charset: str, body: bytes, text: str) -> None:
    world.site.pages["/"] = Page(body, f'text/plain; charset="{charset}"')
    assert text in (await get(world.fetch, "https://public.example/")).content


async def test_gzip_is_unpacked(world: World, get: Get) -> None:
    world.site.pages["/"] = Page(gzip.compress(b"hello " * 100), headers={"Content-Encoding": "gzip"})
    assert (await get(world.fetch, "https://public.example/")).content.endswith("hello " * 100)


async def test_a_decompression_bomb_is_stopped_early(world: World, get: Get) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=1)
    assert len(bomb) < LARGEST_PAGE
    world.site.pages["/"] = Page(bomb, headers={"Content-Encoding": "gzip"})
    started = time.monotonic()
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.failed
    assert "larger than 2,000,000 bytes" in outcome.content
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip"])
async def test_other_compressions_are_refused(world: World, get: Get, coding: str) -> None:
    world.site.pages["/"] = Page(zlib.compress(b"x" * 100), headers={"Content-Encoding": coding})
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.failed
    assert "compressed" in outcome.content


async def test_broken_gzip(world: World, get: Get) -> None:
    world.site.pages["/"] = Page(b"not gzip at all", headers={"Content-Encoding": "gzip"})
    assert "compressed wrongly" in (await get(world.fetch, "https://public.example/")).content


async def test_a_page_without_end_is_stopped(world: World, get: Get) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 65_536

    world.site.pages["/"] = Page(endless)
    outcome = await get(world.fetch, "https://public.example/")
    assert outcome.failed
    assert "too large" in outcome.content or "larger" in outcome.content
    assert sent * 65_536 < 20 * LARGEST_PAGE


async def test_a_page_that_trickles_runs_out_of_time(world: World, get: Get) -> None:
    def trickle() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b"x"

    world.site.pages["/"] = Page(trickle)
    hurried = HttpFetch(
        allow_private=False,
        resolve=world.names,
        dial=Detour(world.site, world.connected),
        tls=client_tls(),
        seconds=0.5,
    )
    started = time.monotonic()
    outcome = await get(hurried, "https://public.example/")
    assert outcome.failed
    assert "0.5 seconds" in outcome.content
    assert time.monotonic() - started < 3


async def test_a_name_server_that_does_not_answer(context: ToolContext, get: Get) -> None:
    async def silent(_host: str, _port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    fetch = HttpFetch(allow_private=False, resolve=silent, tls=client_tls(), seconds=0.2)
    assert "0.2 seconds" in (await get(fetch, "https://public.example/")).content


@pytest.mark.parametrize("answers", [[], ["not an address"]])
async def test_a_name_without_an_address(site: WebServer, get: Get, answers: list[str]) -> None:
    world = World(site, Names(nowhere_example=[answers]))
    assert (await get(world.fetch, "https://nowhere.example/")).failed


async def test_the_next_address_is_tried(context: ToolContext, site: WebServer, get: Get) -> None:
    tried: list[str] = []

    class FirstIsDown(Detour):
        async def __call__(self, address: Address, port: int) -> ByteStream:
            if str(address) == PUBLIC:
                tried.append(PUBLIC)
                raise ConnectionRefusedError("down")
            return await super().__call__(address, port)

    site.pages["/"] = Page(b"ok")
    fetch = HttpFetch(
        allow_private=False,
        resolve=Names(public_example=[[PUBLIC, "8.8.8.8"]]),
        dial=FirstIsDown(site, tried),
        tls=client_tls(),
    )
    assert not (await get(fetch, "https://public.example/")).failed
    assert tried == [PUBLIC, "8.8.8.8"]


async def test_an_intranet_can_be_opened(site: WebServer, get: Get) -> None:
    site.pages["/"] = Page(b"inside")
    fetch = HttpFetch(allow_private=True, tls=client_tls())
    assert (await get(fetch, site.url("/", "localhost"))).content.endswith("inside")
    with WebServer({"/": Page(b"plain")}, tls=False) as plain:
        assert (await get(fetch, plain.url("/"))).content.endswith("plain")
        plain.pages["/away"] = moved("http://169.254.169.254/latest/meta-data/")
        outcome = await get(fetch, plain.url("/away"))
        assert outcome.failed
        assert "metadata" in outcome.content


async def test_a_server_that_is_not_there(get: Get) -> None:
    with WebServer({}) as gone:
        url = gone.url("/")
    outcome = await get(HttpFetch(allow_private=True, tls=client_tls()), url)
    assert outcome.failed
    assert "could not be fetched" in outcome.content


@pytest.mark.parametrize(
    "html, text",
    [
        ("<script>evil()</script><style>p{}</style><p>seen</p>", "seen"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<p style='display: none'>hidden</p><p>shown</p>", "shown"),
        ("<p style='padding-left: 99999em'>flat</p>", "flat"),
        ("<a href='/there'>here</a>", "[here](/there)"),
        ("<title>A &amp; B</title><p>C</p>", "A & B\n\nC"),
        ("", "[The page has no text.]"),
        ("<ul><li>a<li>b</ul>", "* a\n  * b"),
    ],
)
def test_html_becomes_text(html: str, text: str) -> None:
    assert html_to_text(html) == text


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 100_000,
        "<table><tr><td>" * 20_000,
        "<pre>" + " " * 900_000 + "x",
        "<p style='margin-top:" + "9" * 100_000 + "em'>x",
        "&" * 900_000,
        "<title" * 100_000,
        "<!--" * 200_000,
        "<td colspan=100000000>x" * 10,
    ],
)
def test_hostile_html_does_not_take_long(html: str) -> None:
    started = time.monotonic()
    html_to_text(html)
    assert time.monotonic() - started < 5
