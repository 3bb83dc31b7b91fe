"""Lines of the log: one JSON object or one line of text a record, bounded, and with secrets masked.

Nothing here writes secrets on purpose. The mask is the net underneath: for an error of a library whose text holds an
address with its password, for instance.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

LONGEST_TEXT = 16_000
"""Characters of one message, value or stack; a line of several stays readable by what collects logs."""

_ORDINARY = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {10: "\\n", 13: "\\r", 9: "\\t"}
_ORJSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z

# What a secret looks like: a piece of text in lower case that is always there, the pattern, what is written instead.
# The piece is looked for first, so that an ordinary line costs a few microseconds.
_LOOKS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("rtn_", re.compile(r"\brtn_[a-z0-9]{1,16}_[0-9A-Za-z]{8,}"), "rtn_***"),
    ("sk-", re.compile(r"\bsk-[0-9A-Za-z_-]{8,}"), "sk-***"),
    ("aiza", re.compile(r"\bAIza[0-9A-Za-z_-]{20,}"), "AIza***"),
    ("eyj", re.compile(r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]*)?"), "eyJ***"),
    ("bearer", re.compile(r"\b(bearer)\s+[0-9A-Za-z._~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
    ("basic", re.compile(r"\b(basic)\s+[0-9A-Za-z+/]{8,}={0,2}", re.IGNORECASE), r"\1 ***"),
    ("://", re.compile(r"(://[^\s:/@\"'\\]*):[^\s/@\"'\\]+@"), r"\1:***@"),
    *(
        (
            word,
            re.compile(
                rf"((?:{pattern})\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!\*\*\*)[^\s\"'\\,;&)}}\]]{{3,}}", re.IGNORECASE
            ),
            r"\1***",
        )
        for word, pattern in (
            ("passw", "password|passwd"),
            ("secret", "secret"),
            ("key", "api[_-]?key"),
            ("token", "access[_-]token|refresh[_-]token|id[_-]token"),
            ("ticket", "ticket"),
        )
    ),
)


class Mask:
    """Takes secrets out of text: what looks like one, and the values it was told."""

    def __init__(self, known: Collection[str] = ()) -> None:
        """Remember secret values; those too short to be told from other words are left out."""
        self._known = sorted({form for value in known if len(value) >= 8 for form in _forms(value)}, key=len)[::-1]

    def __call__(self, text: str) -> str:
        """Return ``text`` with every secret replaced."""
        for value in self._known:
            if value in text:
                text = text.replace(value, "***")
        lower = text.lower()
        for piece, pattern, instead in _LOOKS:
            if piece in lower:
                text = pattern.sub(instead, text)
        return text


def _forms(value: str) -> Iterator[str]:
    """A secret as it is, and as it stands in JSON."""
    yield value
    yield orjson.dumps(value).decode()[1:-1]


class JsonLines(logging.Formatter):
    """Writes a record as one JSON object: time, level, logger, message, then whatever the record brings along."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(_message(record)),
        }
        for name, value in _extra(record):
            fields.setdefault(name, value)
        if stack := _stack(self, record):
            fields["stack"] = stack
        return self._mask(_json(fields))


class TextLines(logging.Formatter):
    """Writes a record for people: time, level, logger, message, ``name=value``; a stack follows on lines of its own."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Control characters of a message cannot make it look like two."""
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {_cut(_message(record)).translate(_CONTROL)}"
        more = [f"{name}={str(value).translate(_CONTROL)}" for name, value in _extra(record) if value not in ("", None)]
        stack = _stack(self, record)
        return self._mask(" ".join([line, *more]) + (f"\n{stack}" if stack else ""))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a mistake in a call of the log is no reason to lose the line
        return f"{record.msg!s} {record.args!r}"


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    for name, value in record.__dict__.items():
        if name not in _ORDINARY:
            yield name, _cut(value) if isinstance(value, str) else value


def _stack(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info:
        parts.append(formatter.formatException(record.exc_info))
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return _cut("\n".join(parts), from_end=True)


def _cut(text: str, *, from_end: bool = False) -> str:
    """Bound a text; of a stack the end says more."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"… {text[-LONGEST_TEXT:]}" if from_end else f"{text[:LONGEST_TEXT]} …"


def _json(fields: dict[str, Any]) -> str:
    try:
        return orjson.dumps(fields, default=str, option=_ORJSON).decode()
    except (TypeError, ValueError):  # a lone surrogate, a number of more than 64 bits, a circle
        return orjson.dumps({_printable(name): _printable(value) for name, value in fields.items()}).decode()


def _printable(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "backslashreplace").decode()
