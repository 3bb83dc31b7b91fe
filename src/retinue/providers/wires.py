"""The providers' own wire formats, for calls that are passed on as they came instead of being made here.

A :class:`Wire` knows what is particular to one format: where a call goes, which headers it may carry, how long its
answer can get, what it used, how an error looks. It sends nothing; :mod:`retinue.providers.passing` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

Json = dict[str, Any]
Action = Literal["chat", "responses", "embeddings", "messages", "generate", "count"]

CHARACTERS_A_TOKEN = 4
"""What an estimate goes by where a provider does not say what a call used."""

ASSUMED_ANSWER = 8_192
"""Tokens an answer may have when nothing limits it."""


class Call(Struct, frozen=True):
    """One kind of call a format has.

    Attributes:
        action: what is called.
        path: below the provider's address; ``{model}`` stands for the model's name.
        streams: whether the path itself asks for a stream.
        free: whether it uses nothing that is paid for (counting tokens).
    """

    action: Action
    path: str
    streams: bool = False
    free: bool = False


class Tally(Struct):
    """What a call used, as far as it is known yet.

    Attributes:
        input_tokens: tokens read, cached ones included.
        output_tokens: tokens written, thoughts included.
        cached_tokens: of ``input_tokens``, those the provider had cached.
        cache_written: of ``input_tokens``, those it put into its cache.
        measured: whether the provider said so itself, to the end of the answer.
        served_by: the name the provider reported for the model.
        written: characters of the answer seen.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_written: int = 0
    measured: bool = False
    served_by: str = ""
    written: int = 0

    def estimate_rest(self, asked: int) -> None:
        """Put an estimate where the provider said nothing; ``asked`` is the number of characters of the request."""
        if not self.measured:
            self.input_tokens = self.input_tokens or -(-asked // CHARACTERS_A_TOKEN)
            self.output_tokens = max(self.output_tokens, -(-self.written // CHARACTERS_A_TOKEN))


class Reader(ABC):
    """Reads on the way what an answer used."""

    def __init__(self) -> None:
        self.tally = Tally()

    def event(self, data: bytes) -> bool:
        """Look at the data of one event of a stream; return whether the event is to be passed on."""
        if not data.startswith(b"{"):
            return True
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return True
        return self.part(document) if isinstance(document, dict) else True

    @abstractmethod
    def part(self, document: Json) -> bool:
        """Look at one decoded event; return whether it is to be passed on."""

    @abstractmethod
    def whole(self, document: Json) -> None:
        """Look at an answer that came in one piece."""


class Wire(ABC):
    """One provider's format.

    Attributes:
        name: what the format is called in paths and messages.
        provider: the provider whose models speak it, as in ``provider:model``.
        address: the provider's public address.
    """

    name: ClassVar[str]
    provider: ClassVar[str]
    address: ClassVar[str]

    @abstractmethod
    def headers(self, key: str, given: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a call with our key, and those of the caller's that mean something to the provider."""

    def query(self, call: Call, given: Mapping[str, str]) -> str:
        """Return the query of a call; nothing of the caller's by default."""
        return ""

    @abstractmethod
    def body(self, call: Call, body: Json, model: str, *, streams: bool) -> Json:
        """Return the body that is sent on: for ``model``, and with what is needed to learn what the call used."""

    @abstractmethod
    def reader(self, call: Call, body: Json) -> Reader:
        """Return what reads the answer to the caller's ``body``."""

    @abstractmethod
    def longest_answer(self, call: Call, body: Json) -> int:
        """Return the tokens that all answers to this call may have together."""

    @abstractmethod
    def steering(self, body: Json) -> str | None:
        """Return the name of a field that could choose another model, key, address or price than the checked ones."""

    @abstractmethod
    def reaching(self, body: Json) -> str | None:
        """Return what has the provider itself go out to the network for the caller, None when nothing does."""

    @abstractmethod
    def error(self, status: int, message: str, code: str) -> Json:
        """Return an error in the format's own shape, such that its clients do not try again by themselves."""

    @abstractmethod
    def listing(self, models: Iterable[str]) -> Json:
        """Return a list of models in the format's own shape."""

    def streams(self, call: Call, body: Json) -> bool:
        """Whether the caller asks for a stream."""
        return call.streams or body.get("stream") is True


def whole_number(value: Any) -> int:
    """Return a number of tokens as it is sent by a provider or a caller; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else 0


def objects(value: Any) -> list[Json]:
    """Return the objects of a list; of anything else, none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def size(value: Any) -> int:
    """Return the number of characters of all strings in a document."""
    left, total = [value], 0
    while left:
        one = left.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return total
