"""One call that was let in: paid for, sent, handed back as it comes, counted.

A call that a provider answered is counted, whatever becomes of the answer. One that was sent and then cut off, because
the caller left or the time was up, is counted by what is known of it, else by an estimate. One that the provider
refused, or that did not reach it, is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from tenacity import AsyncRetrying, stop_after_attempt, wait_exponential

from retinue.gateway import commands
from retinue.gateway.commands import Caller, Metered
from retinue.gateway.reply import Reply
from retinue.gateway.requests import Refused
from retinue.gateway.rules import Allowance, Hold, UsedUp
from retinue.kernel import BudgetExhausted, Services, Settings
from retinue.providers import Call, Events, ModelFailed, Passage, Reader, TooLong, Upstream, count_tokens

log = logging.getLogger(__name__)

_LARGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_EVENT = 16 * 1024 * 1024
_WRITING_TRIES = 6
_WRITING_PATIENCE = 5.0
"""Seconds a call waits for the database at its end; what was used is written down all the same, later."""


@dataclass(slots=True, eq=False)
class Asked:
    """A call that was read and checked.

    Attributes:
        call: what is called.
        passage: the way to the provider.
        provider, model: what is asked; the model by the provider's own name.
        body: as it goes out.
        reader: reads what the answer used.
        longest_answer: tokens.
        budgeted: whether a budget besides the rules limits the call.
    """

    call: Call
    passage: Passage
    provider: str
    model: str
    body: bytes
    reader: Reader
    longest_answer: int
    budgeted: bool = False


class Exchange:
    """Carries out one call; used once."""

    def __init__(
        self,
        services: Services,
        caller: Caller,
        allowance: Allowance,
        step: int,
        asked: Asked,
        settling: set[asyncio.Task[None]],
    ) -> None:
        self._services = services
        self._caller = caller
        self._allowance = allowance
        self._step = step
        self._asked = asked
        self._settling = settling
        self._hold: Hold | None = None
        self._reserved = False
        self._sent = False
        self._writing: asyncio.Task[None] | None = None

    async def carry_out(self, headers: Mapping[str, str], query: Mapping[str, str], reply: Reply) -> None:
        """Send the call and hand its answer back.

        Raises:
            Refused: a limit is reached.
            ModelFailed: no answer came, or it broke off.
            TimeoutError: it stopped for too long.
        """
        asked = self._asked
        try:
            if not asked.call.free:
                await self._admit()
            self._sent = True
            async with self._answer(headers, query) as upstream:
                if upstream.status >= 300:
                    self._sent = False
                    await self._hand_back_error(upstream, reply)
                elif upstream.streams:
                    await self._hand_back_stream(upstream, reply)
                else:
                    await self._hand_back_whole(upstream, reply)
        finally:
            self._settle()
            if self._writing is not None:
                await asyncio.wait({self._writing}, timeout=_WRITING_PATIENCE)

    @asynccontextmanager
    async def _answer(self, headers: Mapping[str, str], query: Mapping[str, str]) -> AsyncIterator[Upstream]:
        asked, came = self._asked, False
        try:
            async with asked.passage.send(asked.call, asked.model, asked.body, headers, query) as upstream:
                came = True
                yield upstream
        except ModelFailed:
            self._sent = came
            raise

    async def _admit(self) -> None:
        """Hold what the call may use, in the rules and in the tenant's budgets.

        Raises:
            Refused: there is nothing left.
        """
        asked = self._asked
        tokens, cost = asked.passage.most(asked.model, len(asked.body), asked.longest_answer)
        self._allowance.careful |= asked.budgeted
        try:
            self._hold = await self._allowance.hold(tokens, cost)
            if asked.budgeted:
                amount = None if cost is None else self._hold.cost
                self._reserved = True  # from here on it may be: whoever is cancelled in a commit does not know
                await commands.reserve(self._services, self._caller, self._step, amount)
        except UsedUp as refusal:
            raise Refused(402, str(refusal), "budget_exhausted") from None
        except BudgetExhausted as fault:
            self._reserved = False
            raise Refused(402, fault.detail, "budget_exhausted") from None

    async def _hand_back_error(self, upstream: Upstream, reply: Reply) -> None:
        body = await upstream.error()
        status = upstream.status if 400 <= upstream.status < 600 else 502
        await reply.whole(status, upstream.headers, body)

    async def _hand_back_whole(self, upstream: Upstream, reply: Reply) -> None:
        body = await upstream.body(_LARGEST_ANSWER)
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            document = None
        if isinstance(document, dict):
            self._asked.reader.whole(document)
        else:
            self._asked.reader.tally.written += len(body)
        self._settle()
        await reply.whole(200, upstream.headers, upstream.without_key(body))

    async def _hand_back_stream(self, upstream: Upstream, reply: Reply) -> None:
        """Hand events on as they come; nothing more is read from the provider than the caller has taken."""
        reader, events = self._asked.reader, Events(_LONGEST_EVENT)
        await reply.begin(upstream.headers)
        try:
            async for piece in _in_time(upstream.pieces(), self._services.get(Settings).model_stall):
                out = b"".join([event for event, data in events.feed(piece) if reader.event(data)])
                if out:
                    await reply.piece(upstream.without_key(out))
        except TooLong:
            raise ModelFailed("bad_answer", "An event in it does not end.") from None
        rest, data = events.rest()
        if rest and reader.event(data):
            await reply.piece(upstream.without_key(rest))
        self._settle()
        await reply.end()

    # Counting

    def _settle(self) -> None:
        """Begin to count what was used, once. The answer does not wait for it: what the call holds stays held."""
        hold, self._hold = self._hold, None
        if hold is None:
            return
        self._writing = asyncio.create_task(self._write_down(hold), name="gateway-settle")
        self._settling.add(self._writing)
        self._writing.add_done_callback(self._settling.discard)

    async def _write_down(self, hold: Hold) -> None:
        asked, tally = self._asked, self._asked.reader.tally
        if not self._sent:
            await self._allowance.give_back(hold)
            if self._reserved:
                await self._insistently(used=None)
            return
        tally.estimate_rest(len(asked.body))
        cost = asked.passage.price(asked.model, tally)
        read, written = tally.input_tokens, tally.output_tokens
        await self._allowance.settle(hold, read, written, cost, estimated=not tally.measured)
        count_tokens(asked.provider, read, written)
        await self._insistently(Metered(self._step, f"{asked.provider}:{asked.model}", read, written, cost))

    async def _insistently(self, used: Metered | None) -> None:
        """Write to the database, also if it is away for some seconds."""
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(_WRITING_TRIES), wait=wait_exponential(0.2, max=5), reraise=True
            ):
                with attempt:
                    if used is not None:
                        await commands.settle(self._services, self._caller, used)
                    else:
                        await commands.give_back(self._services, self._caller, self._step, self._name())
        except Exception:
            log.exception("a model call of run %s could not be metered", self._caller.run_id)

    def _name(self) -> str:
        return f"{self._asked.provider}:{self._asked.model}"


async def _in_time(pieces: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """Give the pieces, none later than ``seconds`` after it was asked for.

    Raises:
        TimeoutError: one was.
    """
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        yield piece
