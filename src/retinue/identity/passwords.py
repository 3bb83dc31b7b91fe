"""Password hashes: argon2id with the parameters OWASP recommends (19 MiB, two passes, one lane)."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from retinue.kernel import BadInput, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

SHORTEST, LONGEST = 10, 1024
_THREADS = 2
_LONGEST_QUEUE = 200
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE = 4 * 2**20

# Nobody's password: what a login with an unknown e-mail is checked against, so that it takes as long as any other.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$3k2m0Yf0l0m8d8xXh4qQ7A$4mJ1m3t0Q8nqJv8Qd8kqvHq7oJ2vGq0a6cXb8uYk3lM"


class Passwords:
    """Hashes and checks passwords in threads of its own, two at a time; each takes about 30 ms of CPU."""

    def __init__(self) -> None:
        _give_back_large_blocks()
        self._hasher = PasswordHasher(memory_cost=19_456, time_cost=2, parallelism=1)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Return the encoded, salted hash of a password."""
        return await self._in_thread(self._hasher.hash, _prepared(password))

    async def matches(self, encoded: str | None, password: str) -> bool:
        """Return whether the password is the hashed one; with no hash, False after the same work."""
        found = await self._in_thread(self._verify, encoded or _NOBODY, _prepared(password))
        return found and encoded is not None

    def is_outdated(self, encoded: str) -> bool:
        """Return whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _verify(self, encoded: str, password: bytes) -> bool:
        try:
            return self._hasher.verify(encoded, password)
        except VerificationError:
            return False

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._waiting >= _LONGEST_QUEUE:
            raise Unavailable("Too many people are signing in at once. Try again in a moment.", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        finally:
            self._waiting -= 1


def _give_back_large_blocks() -> None:
    """Have the C library give each hash's memory back to the system.

    By itself glibc would keep 19 MiB for each thread, for ever. Getting them anew costs a hash 8 ms.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and keeps nothing
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE)


def checked(password: str, *, field: str = "password") -> str:
    """Return the password if it may become one.

    Raises:
        BadInput: it is too short or too long; ``field`` is named, the password is not.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadInput(f"A password has {SHORTEST} to {LONGEST:,} characters.", field=field)
    return password


def _prepared(password: str) -> bytes:
    """Normalise as NIST SP 800-63B, section 5.1.1.2, advises, so that it does not depend on the keyboard."""
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
