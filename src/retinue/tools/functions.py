"""Makes tools of Python functions: the schema comes from the type hints, the descriptions from the docstring."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, get_type_hints

import docstring_parser
from msgspec import Struct
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError, validate_call

from retinue.tools.calls import CALL_TIMEOUT, Tool, ToolContext, ToolFault
from retinue.tools.labels import UNLABELLED, Effect, Labels, Trust

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_MARKS = "__retinue_tool__"

_MOST_THREADS = 64
"""Calls of plain functions at once, those included that never return and cannot be stopped."""

_in_flight: set[threading.Thread] = set()


class Marks(Struct, frozen=True):
    """What the decorator :func:`tool` notes on a function."""

    labels: Labels
    name: str | None
    timeout: float


def tool(
    *,
    effect: Effect = Effect.EGRESS,
    output: Trust = Trust.UNTRUSTED,
    private: bool = True,
    idempotent: bool = False,
    name: str | None = None,
    timeout: float = CALL_TIMEOUT,
) -> Callable[[F], F]:
    """Mark a function as a tool and label it; the function itself stays as it is.

    The function may be ``async`` or plain (then it runs in a thread). A first parameter annotated with
    :class:`ToolContext` is given the context of the call; all others are the tool's arguments.

    Args:
        effect: the most a call can do.
        output: who could have written what it returns.
        private: whether what it returns can hold the user's private data.
        idempotent: whether calling again with the same ``context.idempotency_key`` does nothing more.
        name: how models call it; the function's own name when left out.
        timeout: seconds a call may take.
    """
    labels = Labels(effect=effect, output=output, private=private, idempotent=idempotent)

    def mark(function: F) -> F:
        setattr(function, _MARKS, Marks(labels, name, timeout))
        return function

    return mark


def is_marked(candidate: object) -> bool:
    """Tell whether a function carries the marks of :func:`tool`."""
    return isinstance(getattr(candidate, _MARKS, None), Marks)


def function_tool(function: Callable[..., Any]) -> Tool:
    """Make a tool of a function; one that is not marked is unlabelled.

    Raises:
        ValueError: its parameters cannot be described by a JSON Schema, or it has no docstring.
        TypeError: it is no function.
    """
    if not callable(function):
        raise TypeError(f"a tool is made of a function, not of a {type(function).__name__}")
    marks = getattr(function, _MARKS, None) or Marks(UNLABELLED, None, CALL_TIMEOUT)
    name = marks.name or function.__name__
    wants_context, taker = _argument_taker(function)
    try:
        schema = TypeAdapter(taker).json_schema()
        take = validate_call(taker)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        raise ValueError(f"the parameters of {name} cannot be described: {error}") from None
    description = _describe(function, schema)
    if not description:
        raise ValueError(f"{name} needs a docstring: it is what the model reads to decide when to use it")

    async def handler(context: ToolContext, arguments: dict[str, Any]) -> object:
        try:
            positional, named = take(**arguments)
        except ValidationError as error:
            raise ToolFault(f"The arguments are not valid: {_complaint(error)}") from None
        work = functools.partial(function, *([context] if wants_context else []), *positional, **named)
        if inspect.iscoroutinefunction(function):
            return await work()
        result = await in_own_thread(work)
        return await result if inspect.isawaitable(result) else result

    return Tool(
        name=name,
        description=description,
        parameters=schema,
        labels=marks.labels,
        handler=handler,
        timeout=marks.timeout,
    )


async def in_own_thread(work: Callable[[], T]) -> T:
    """Run a function that blocks in a thread of its own.

    A thread of the shared pool would be lost to it, and would keep the server from stopping, if it never returned.

    Raises:
        ToolFault: too many such calls are running already.
    """
    if len(_in_flight) >= _MOST_THREADS:
        raise ToolFault("Too many calls are still running; try again later.")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error it is the result, None or not
        else:
            future.set_exception(_harmless(error))

    def body() -> None:
        result, error = None, None
        try:
            result = context.run(work)
        except BaseException as raised:  # whatever it is belongs to the caller, not to this thread
            error = raised
        _in_flight.discard(thread)  # here and not in the loop, which may have closed
        with suppress(RuntimeError):  # the loop has closed in the meantime; nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=body, name=f"retinue-tool-{work}"[:60], daemon=True)
    _in_flight.add(thread)
    thread.start()
    return await future


def _harmless(error: BaseException) -> Exception:
    """Wrap what means something else to an event loop: the end of an iteration, of a task, of the program."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _argument_taker(function: Callable[..., Any]) -> tuple[bool, Any]:
    """Return whether the function wants the context, and a function with its other parameters that returns them."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    hints = get_type_hints(function, include_extras=True)
    wants_context = bool(parameters) and hints.get(parameters[0].name) is ToolContext

    def taker(*positional: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return positional, named

    taker.__name__, taker.__module__ = function.__name__, function.__module__
    kept = [parameter.replace(annotation=hints.get(parameter.name, Any)) for parameter in parameters[wants_context:]]
    if any(parameter.kind is inspect.Parameter.POSITIONAL_ONLY for parameter in kept):
        raise ValueError(f"the parameters of {function.__name__} must be nameable: it has a '/'")
    taker.__signature__ = signature.replace(  # type: ignore[attr-defined]  # what inspect.signature looks for first
        parameters=kept, return_annotation=inspect.Signature.empty
    )
    taker.__annotations__ = {parameter.name: parameter.annotation for parameter in kept}
    return wants_context, taker


def _describe(function: Callable[..., Any], schema: dict[str, Any]) -> str:
    """Take the description of the function and of its parameters from the docstring."""
    parsed = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {entry.arg_name: entry.description for entry in parsed.params}
    for name, described in schema.get("properties", {}).items():
        described.pop("title", None)
        if texts.get(name):
            described.setdefault("description", texts[name])
    return "\n\n".join(text for text in (parsed.short_description, parsed.long_description) if text)


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return f"{field}: {first['msg']}" if field else str(first["msg"])
