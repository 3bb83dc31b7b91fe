"""Talks to a Retinue server over HTTP: signs requests, renews the login, waits for a server that restarts."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from retinue import __version__
from retinue.cli.credentials import CredentialFile, Login
from retinue.cli.failures import ExitCode, Failure, Refusal
from retinue.cli.screen import Json

_RENEW_BEFORE = 10.0
"""Seconds before its end at which an access token is renewed."""

_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0)


class Client:
    """The HTTP API as one signed-in caller.

    A server that answered once in this command is waited for when it goes away (``patience`` seconds), because a
    restart is no reason to lose a conversation. Every POST carries an Idempotency-Key, so asking again is safe.
    """

    def __init__(
        self,
        server: str,
        *,
        key: str | None = None,
        tenant: str | None = None,
        credentials: CredentialFile | None = None,
        patience: float = 30.0,
    ) -> None:
        self.server = server.rstrip("/")
        self.tenant = tenant
        self.patience = patience
        self._key = key
        self._credentials = credentials or CredentialFile()
        self._login: Login | None = None
        self._answered = False
        self._http = httpx.Client(
            base_url=self.server,
            timeout=httpx.Timeout(35.0, connect=5.0),
            # A proxy has nothing to do with a server on this machine.
            trust_env=not self.is_local,
            headers={"User-Agent": f"retinue-cli/{__version__}", "Accept": "application/json"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.server).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    # Requests ------------------------------------------------------------------------------------------------------

    def get(self, path: str, **params: object) -> Any:
        """GET and decode. Raises Failure, as every request here does."""
        return self.request("GET", path, params=params).json()

    def post(self, path: str, body: object = None, *, timeout: float | None = None, **params: object) -> Any:
        """POST JSON and decode the answer; None for an empty one."""
        return _decoded(self.request("POST", path, body=body, params=params, timeout=timeout))

    def put(self, path: str, body: object, *, if_match: str | None = None) -> Any:
        """PUT JSON and decode the answer; None for an empty one."""
        headers = {"If-Match": if_match} if if_match else None
        return _decoded(self.request("PUT", path, body=body, headers=headers))

    def delete(self, path: str, **params: object) -> None:
        """DELETE."""
        self.request("DELETE", path, params=params)

    def pages(self, path: str, *, limit: int = 0, **params: object) -> Iterator[Json]:
        """Yield the items of a list, page by page; at most ``limit`` of them unless it is 0."""
        left = limit
        cursor: str | None = None
        while True:
            page = self.get(path, limit=min(left or 200, 200), cursor=cursor, **params)
            items = page["items"] if isinstance(page, dict) else page
            yield from items[: left or None]
            cursor = page.get("next_cursor") if isinstance(page, dict) else None
            if cursor is None or (limit and len(items) >= left):
                return
            left = left - len(items) if limit else 0

    def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content: bytes | None = None,
        files: dict[str, Any] | None = None,
        form: dict[str, str] | None = None,
        params: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        signed: bool = True,
    ) -> httpx.Response:
        """Ask once, or again while the server is away or says to come back.

        Raises:
            Refusal: the server's problem document.
            Failure: nobody answers, or nobody is signed in.
        """
        sent = dict(headers or {})
        if method == "POST":
            sent["Idempotency-Key"] = str(uuid4())
        request = {
            "json": body,
            "content": content,
            "files": files,
            "data": form,
            "params": _present(params),
            "timeout": httpx.USE_CLIENT_DEFAULT if timeout is None else httpx.Timeout(timeout, connect=5.0),
        }
        if body is None:
            del request["json"]
        attempts = _Attempts(self.patience if self._answered and files is None else 0.0)
        renewed = False
        while True:
            try:
                signature = self._signature() if signed else {}
                response = self._http.request(method, path, headers={**sent, **signature}, **cast(Any, request))
            except httpx.TransportError as error:
                attempts.after_silence(self._unreachable(error))
                continue
            self._answered = True
            if response.status_code == 401 and signed and not renewed and self._renew():
                renewed = True
            elif response.is_success or not attempts.again_after(response):
                return self._checked(response, signed)

    @contextmanager
    def streaming(self, path: str, params: dict[str, object], headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Open a response that never ends. A pause of 45 s means that the server is gone (it sends a comment at 15 s).

        Raises:
            Refusal: the server's problem document.
            httpx.TransportError: the connection broke.
        """
        timeout = httpx.Timeout(45.0, connect=5.0)
        for last in (False, True):
            sent = {**headers, **self._signature(), "Accept": "text/event-stream"}
            with self._http.stream("GET", path, params=_present(params), headers=sent, timeout=timeout) as response:
                if response.status_code == 401 and not last and self._renew():
                    continue
                if not response.is_success:
                    response.read()
                yield self._checked(response, signed=True)
                return

    def _checked(self, response: httpx.Response, signed: bool) -> httpx.Response:
        if response.is_success:
            return response
        if response.status_code == 401 and signed and self._key is None:
            raise Failure(f"Your login at {self.server} has ended. Run: retinue login", ExitCode.REFUSED)
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {"detail": f"{self.server} answered {response.status_code}; is this a Retinue server?"}
        raise Refusal(response.status_code, problem)

    def _unreachable(self, error: httpx.TransportError) -> Failure:
        if isinstance(error, httpx.UnsupportedProtocol):
            return Failure(f"{self.server} is no server URL; it starts with http:// or https://", ExitCode.USAGE)
        if isinstance(error, httpx.ReadTimeout):
            return Failure(f"{self.server} took too long to answer.", ExitCode.UNAVAILABLE)
        hint = "Start it with: retinue serve" if self.is_local else "Check --server or RETINUE_SERVER."
        return Failure(f"No server answers at {self.server}. {hint}", ExitCode.UNAVAILABLE)

    # The login -----------------------------------------------------------------------------------------------------

    def sign_up(self, email: str, password: str, name: str | None = None) -> Login:
        """Make an account and keep its login."""
        body = {"email": email, "password": password, **({"name": name} if name else {})}
        return self._keep(email, self.request("POST", "/v1/auth/sign-up", body=body, signed=False).json())

    def log_in(self, email: str, password: str) -> Login:
        """Log in and keep the login."""
        body = {"email": email, "password": password}
        return self._keep(email, self.request("POST", "/v1/auth/login", body=body, signed=False).json())

    def change_password(self, current: str, fresh: str) -> Login:
        """Change the password and keep the login that the server gives for it; every other one ends."""
        answer = self.post("/v1/my/password", {"current_password": current, "new_password": fresh})
        assert self._login is not None, "an API key changes no password: the server has refused it"
        return self._keep(self._login.email, answer)

    def log_out(self) -> None:
        """End the login at the server and forget it here, even when the server says it has ended already."""
        try:
            self.post("/v1/auth/logout")
        except Failure as failure:
            if failure.code is not ExitCode.REFUSED:
                raise
        with self._credentials.locked():
            self._credentials.forget(self.server)

    def _keep(self, email: str, answer: Json) -> Login:
        self._login = Login.from_answer(email, answer)
        with self._credentials.locked():
            self._credentials.save(self.server, self._login)
        return self._login

    def _signature(self) -> dict[str, str]:
        headers = {"Retinue-Tenant": self.tenant} if self.tenant else {}
        if self._key:
            return {**headers, "Authorization": f"Bearer {self._key}"}
        self._login = self._login or self._credentials.find(self.server)
        if self._login is None:
            raise self._nobody()
        if self._login.expires_at - time.time() < _RENEW_BEFORE:
            self._renew()
        return {**headers, "Authorization": f"Bearer {self._login.access_token}"}

    def _nobody(self) -> Failure:
        where = "" if self.is_local else f" --server {self.server}"
        return Failure(
            f"Nobody is signed in at {self.server}. With an account: retinue login{where}   "
            f"Without one: retinue sign-up{where}   In a script: set RETINUE_API_KEY.",
            ExitCode.REFUSED,
        )

    def _renew(self) -> bool:
        """Get a fresh access token; return whether there is one."""
        if self._key or self._login is None:
            return False
        with self._credentials.locked():
            kept = self._credentials.find(self.server)
            if kept is not None and kept.access_token != self._login.access_token:
                self._login = kept  # another command renewed it in the meantime
                return True
            body = {"refresh_token": self._login.refresh_token}
            response = self._http.post("/v1/auth/refresh", json=body)
            if response.status_code == 429 or response.status_code >= 500:
                raise httpx.RemoteProtocolError(f"the login cannot be renewed now: {response.status_code}")
            if not response.is_success:
                return False
            self._login = Login.from_answer(self._login.email, response.json())
            self._credentials.save(self.server, self._login)
            return True


class _Attempts:
    """How long to go on asking a server that is away or busy."""

    def __init__(self, patience: float) -> None:
        self._until = time.monotonic() + patience
        self._count = 0

    def after_silence(self, failure: Failure) -> None:
        """Pause before asking again, or raise ``failure`` when patience is over."""
        if not self._pause(_PAUSES[min(self._count, len(_PAUSES) - 1)]):
            raise failure

    def again_after(self, response: httpx.Response) -> bool:
        """Pause as a busy server asks for; return False when it is not busy or patience is over."""
        if response.status_code not in (429, 503):
            return False
        try:
            asked = float(response.headers.get("Retry-After", "1"))
        except ValueError:
            return False
        return self._pause(asked)

    def _pause(self, seconds: float) -> bool:
        if time.monotonic() + seconds > self._until:
            return False
        self._count += 1
        time.sleep(seconds)
        return True


def _present(params: dict[str, object] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _decoded(response: httpx.Response) -> Any:
    return response.json() if response.content else None
