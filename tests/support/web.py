"""A web server for the tests of tools: real sockets, real TLS with an authority of its own, scripted pages."""

from __future__ import annotations

import datetime
import socket
import ssl
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Struct

NAMES = ("public.example", "other.example", "localhost")
"""The names the server's certificate is good for, besides 127.0.0.1."""


class Page(Struct):
    """What the server answers; ``body`` may be sent in pieces, and may stop to wait."""

    body: bytes | Callable[[], Iterator[bytes]] = b""
    content_type: str | None = "text/plain; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = {}


def moved(location: str, status: int = 302) -> Page:
    """Return a redirect."""
    return Page(status=status, headers={"Location": location})


class Seen(Struct):
    """One request as it arrived."""

    path: str
    headers: dict[str, str]


class WebServer:
    """Serves pages on a free port of the loopback address; a context manager.

    Args:
        pages: path -> what is there.
        tls: whether it is https.
        handler: what answers in place of the pages.
    """

    def __init__(
        self, pages: Mapping[str, Page], *, tls: bool = True, handler: type[BaseHTTPRequestHandler] | None = None
    ) -> None:
        self.pages = dict(pages)
        self.seen: list[Seen] = []
        self._tls = tls
        self._server = _Server(("127.0.0.1", 0), handler or self._handler())
        if tls:
            # The handshake is left to the thread of the connection: a client that says nothing holds up nobody else.
            self._server.socket = server_tls().wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def client_tls(self) -> ssl.SSLContext:
        """What trusts this server's certificate."""
        return client_tls()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
                page = site.pages.get(self.path, Page(b"not here", status=404))
                self.send_response(page.status)
                if page.content_type is not None:
                    self.send_header("Content-Type", page.content_type)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                if isinstance(page.body, bytes):
                    self.send_header("Content-Length", str(len(page.body)))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                try:
                    for piece in (page.body,) if isinstance(page.body, bytes) else page.body():
                        self.wfile.write(piece)
                        self.wfile.flush()
                except OSError:
                    self.close_connection = True  # the client had enough

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    """Gives each connection a thread, which ends with the connection."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Have the threads end that still wait for a client."""
        for request in list(self._open):
            with suppress(OSError):
                socket.socket.shutdown(request, socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            _close_half_made(error)
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):  # a client that left, or that does not trust the certificate
            super().handle_error(request, client_address)
        else:
            _close_half_made(error)


def _close_half_made(error: OSError) -> None:
    """Close what ``ssl`` leaves open when a client resets its connection just before it is secured.

    CPython 3.11 raises out of ``SSLSocket._create`` then, and nobody but the traceback has the socket.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        left = frame.f_locals.get("self")
        if frame.f_code.co_name == "_create" and isinstance(left, ssl.SSLSocket):
            left.close()


class _Certificates(Struct):
    authority: bytes
    chain: bytes


@cache
def _certificates() -> _Certificates:
    now = datetime.datetime.now(datetime.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority for tests")])

    def signed(subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = signed(issuer, authority_key.public_key(), x509.BasicConstraints(ca=True, path_length=None), identifier)
    leaf = signed(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[0])]),
        key.public_key(),
        x509.SubjectAlternativeName([*map(x509.DNSName, NAMES), x509.IPAddress(ip_address("127.0.0.1"))]),
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _Certificates(authority, private + leaf)


@cache
def server_tls() -> ssl.SSLContext:
    """Return the server's side, with its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.write_bytes(_certificates().chain)
        context.load_cert_chain(chain)
    return context


@cache
def client_tls() -> ssl.SSLContext:
    """Return the client's side, which trusts the tests' authority and no other."""
    return ssl.create_default_context(cadata=_certificates().authority.decode())
