"""One caller's calls: read, checked against the rules, and handed to an exchange with the provider."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from itertools import count
from typing import Any

from retinue.gateway import commands
from retinue.gateway.commands import Caller
from retinue.gateway.exchange import Asked, Exchange
from retinue.gateway.reply import Reply
from retinue.gateway.requests import Gone, Receive, Refused, Send, parse, read_body, unless_gone, written
from retinue.gateway.routes import OPENAI, Route
from retinue.gateway.rules import Allowance, allowed_text, is_plain
from retinue.kernel import Fault, Services, Settings
from retinue.providers import Call, Credentials, ModelFailed, Passage, Providers, Wire

log = logging.getLogger(__name__)

_STEPS = 2**30


class Relay:
    """Answers the calls of one caller."""

    def __init__(self, services: Services, caller: Caller, allowance: Allowance) -> None:
        self.allowance = allowance
        self._services = services
        self._caller = caller
        self._settings = services.get(Settings)
        self._providers = services.get(Providers)
        # Not from one on: a run that is tried again counts its calls apart from those of the first time.
        self._steps = count(secrets.randbelow(_STEPS) + 1)
        self._settling: set[asyncio.Task[None]] = set()

    async def settled(self) -> None:
        """Wait until all that was used is written down."""
        while self._settling:
            await asyncio.wait(set(self._settling))

    async def answer(
        self, route: Route, headers: Mapping[str, str], query: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """Answer one call. Nothing is raised for what a caller or a provider does: the answer says it."""
        reply = Reply(send, route.wire)
        try:
            async with asyncio.timeout(self._settings.gateway_timeout):
                await self._answer(route, headers, query, receive, reply)
        except Refused as refused:
            self.allowance.use.note_refusal(refused.status)
            await reply.refuse(refused)
        except TimeoutError:
            await reply.refuse(Refused(504, "The model did not answer in time.", "timeout"))
        except ModelFailed as failed:
            await reply.refuse(Refused(502, failed.detail, failed.kind))
        except Fault as fault:
            await reply.refuse(Refused(fault.status, fault.detail, fault.kind))
        except Gone:
            return
        except Exception:
            log.exception("a mistake in the gateway")
            await reply.refuse(Refused(500, "Something went wrong inside the gateway.", "internal"))

    async def _answer(
        self, route: Route, headers: Mapping[str, str], query: Mapping[str, str], receive: Receive, reply: Reply
    ) -> None:
        if route.call is None:
            await reply.document(200, route.wire.listing(await self._models(route.wire)))
            return
        raw = await read_body(receive, headers, self._settings.gateway_body_limit)
        known = await commands.known(self._services, self._caller)
        asked = self._checked(route, route.call, parse(raw), query, known.credentials)
        asked.budgeted = known.budgeted
        del raw  # it may be large, and the call may take minutes
        exchange = Exchange(self._services, self._caller, self.allowance, next(self._steps), asked, self._settling)
        await unless_gone(receive, exchange.carry_out(headers, query, reply))

    async def _models(self, wire: Wire) -> list[str]:
        """Return the allowed models that speak a format: those named outright, and those that providers list."""
        credentials = (await commands.known(self._services, self._caller)).credentials
        rules, own = self.allowance.rules, f"{wire.provider}:"
        named = [one for one in rules.models if not set("*?[") & set(one)]
        listed = [one.model for one in await self._providers.list_models(credentials)]
        allowed = [name for name in dict.fromkeys([*named, *listed]) if rules.allows(name)]
        spoken = [name for name in allowed if name.startswith(own) or (wire is OPENAI and name.startswith("demo:"))]
        return [name.removeprefix(own) for name in spoken]

    # Checking

    def _checked(
        self, route: Route, call: Call, body: dict[str, Any], query: Mapping[str, str], credentials: Credentials
    ) -> Asked:
        wire, rules = route.wire, self.allowance.rules
        provider, model = self._named(route, body, credentials)
        if not is_plain(model):
            raise Refused(404, "There is no such model: this is no name of one.", "invalid_model")
        if not rules.allows(f"{provider}:{model}"):
            self.allowance.use.note_forbidden(f"{provider}:{model}")
            text = f"The model {provider}:{model} is not allowed here. Allowed: {allowed_text(rules.models)}."
            raise Refused(403, text, "model_not_allowed")
        if (name := wire.steering(body)) is not None:
            raise Refused(403, f"The gateway does not pass on the field {name}. Leave it out.", "field_not_allowed")
        if not rules.reach and (what := wire.reaching(body)) is not None:
            text = f"With {what} the provider would go out to the network; that is not allowed here."
            raise Refused(403, text, "network_not_allowed")
        if call.streams and query.get("alt") != "sse":
            raise Refused(400, "Streams come as server-sent events: add ?alt=sse.", "invalid_request")
        streams = wire.streams(call, body)
        sent = written(wire.body(call, body, model, streams=streams))
        return Asked(
            call=call,
            passage=self._passage(wire, provider, credentials),
            provider=provider,
            model=model,
            body=sent,
            reader=wire.reader(call, body),
            longest_answer=wire.longest_answer(call, body),
        )

    def _named(self, route: Route, body: dict[str, Any], credentials: Credentials) -> tuple[str, str]:
        """Return the provider and the model that are meant."""
        wanted = route.model if route.model is not None else body.get("model")
        if wanted is None or wanted == "default":
            wanted = self.allowance.rules.default_model or self._providers.default_model
        if not isinstance(wanted, str):
            raise Refused(400, "model: the name of one model.", "invalid_model")
        provider, colon, model = wanted.partition(":")
        if colon and self._providers.knows(provider, credentials):
            return provider, model
        return route.wire.provider, wanted

    def _passage(self, wire: Wire, provider: str, credentials: Credentials) -> Passage:
        try:
            return self._providers.passage(wire, provider, credentials)
        except ModelFailed as failed:
            raise Refused(404, failed.detail, failed.kind) from None
