"""How many requests a caller may make: the state goes into ``RateLimit`` headers, what is over it is a 429.

Headers follow draft-ietf-httpapi-ratelimit-headers-10. Counting is the library ``limits``, in this process or in
Redis. A signed-in caller counts as its user, whatever credentials it uses; anybody else counts as an address (an IPv6
network of 64 bits is one address). An API key says who its user is only after the database was asked, so a key that
was never let in counts as an address, too: guessing keys gets no fresh allowance.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING
from uuid import UUID

from limits import RateLimitItem, WindowStats, parse
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from starlette.requests import Request

from retinue.kernel import Settings, TooManyRequests
from retinue.web.counters import Counters
from retinue.web.exchange import Exchange, exchange_of
from retinue.web.gate import Credential

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

log = logging.getLogger(__name__)

_REMEMBERED = 20_000
_GUESSABLE = frozenset({"/v1/auth/login", "/v1/auth/sign-up"})
_AWAY_SECONDS = 5.0


class Limits:
    """Counts requests; a service. Without Redis, or while it is away, each process counts for itself."""

    def __init__(self, settings: Settings) -> None:
        off = settings.rate_limit == "off"
        self._default = None if off else parse(settings.rate_limit)
        self._login = None if off or settings.login_rate_limit == "off" else parse(settings.login_rate_limit)
        self._local = SlidingWindowCounterRateLimiter(Counters())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._redis: ConnectionPool | None = None
        if settings.redis_url is not None:
            self._shared, self._redis = _in_redis(settings.redis_url.get_secret_value())
        self._away_until = 0.0
        self._users: OrderedDict[str, UUID] = OrderedDict()

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.aclose()

    def remember(self, credential: Credential, user_id: UUID) -> None:
        """Note whose credential this is, now that the database has said so."""
        if credential.user_id is None and self._users.get(credential.subject) != user_id:
            self._users[credential.subject] = user_id
            if len(self._users) > _REMEMBERED:
                self._users.popitem(last=False)

    async def spend(self, exchange: Exchange, path: str, method: str) -> None:
        """Count one request; the exchange's response headers then say how many are left.

        Raises:
            TooManyRequests: there are none left.
        """
        if method == "POST" and path in _GUESSABLE:
            if self._login is not None:
                await self._count("login", self._login, _address(exchange.client), exchange)
        elif self._default is not None:
            await self._count("default", self._default, self._who(exchange), exchange)

    async def spend_login(self, exchange: Exchange, name: str) -> None:
        """Count one try to sign in as ``name``, from whatever address.

        Raises:
            TooManyRequests: there were too many.
        """
        if self._login is not None:
            await self._count("login", self._login, f"name:{name[:320]}", exchange)

    def _who(self, exchange: Exchange) -> str:
        credential = exchange.credential
        if credential is None:
            return _address(exchange.client)
        user_id = credential.user_id or self._users.get(credential.subject)
        return f"user:{user_id}" if user_id is not None else _address(exchange.client)

    async def _count(self, policy: str, item: RateLimitItem, who: str, exchange: Exchange) -> None:
        allowed, stats = await self._hit(policy, item, who)
        reset = max(0, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": f'"{policy}";q={item.amount};w={item.get_expiry()}',
            "RateLimit": f'"{policy}";r={max(0, stats.remaining)};t={reset}',
        }
        if allowed:
            exchange.headers.extend((name.lower().encode(), value.encode()) for name, value in headers.items())
            return
        fault = TooManyRequests(f"The limit is {item}. Wait {max(1, reset)} s.", retry_after=max(1, reset))
        fault.headers.update(headers)
        raise fault

    async def _hit(self, policy: str, item: RateLimitItem, who: str) -> tuple[bool, WindowStats]:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                allowed = await self._shared.hit(item, policy, who)
                return allowed, await self._shared.get_window_stats(item, policy, who)
            except (StorageError, OSError, TimeoutError) as error:
                # A limit must not take the service down with it: count here for a while, then try again.
                log.warning("Redis does not answer; this process counts requests for itself: %s", error)
                self._away_until = time.monotonic() + _AWAY_SECONDS
        allowed = await self._local.hit(item, policy, who)
        return allowed, await self._local.get_window_stats(item, policy, who)


def _in_redis(url: str) -> tuple[SlidingWindowCounterRateLimiter, ConnectionPool]:
    # Imported here: the library of Redis takes 70 ms to load, and most servers do without it.
    from limits.aio.storage import RedisStorage
    from redis.asyncio import ConnectionPool

    pool = ConnectionPool.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    storage = RedisStorage(
        f"async+{url}",
        wrap_exceptions=True,
        implementation="redispy",
        connection_pool=pool,  # type: ignore[arg-type]  # documented, and left out of the options' type
    )
    return SlidingWindowCounterRateLimiter(storage), pool


def _address(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return f"address:{client}"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"address:{address.ipv4_mapped}"
        return f"address:{ipaddress.ip_network((address, 64), strict=False).network_address}/64"
    return f"address:{client}"


async def limit_login(request: Request, name: str) -> None:
    """Count one try to sign in as ``name`` (an e-mail address), from whatever address it comes.

    Raises:
        TooManyRequests: there were too many.
    """
    limits: Limits = request.app.state.services.get(Limits)
    await limits.spend_login(exchange_of(request.scope), name)
