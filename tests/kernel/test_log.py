"""The log: its two forms, its levels, and that no secret gets into it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from retinue.kernel import Settings, configure_logging
from retinue.kernel.log_lines import LONGEST_TEXT, JsonLines, Mask, TextLines

Configure = Callable[..., io.StringIO]
KEY = "rtn_live_" + "a1B2c3" * 6


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Set the log up with settings, into text that the test reads; afterwards it is as it was."""
    root = logging.getLogger()
    names = [name for name in root.manager.loggerDict if isinstance(root.manager.loggerDict[name], logging.Logger)]
    loggers = [root, *(logging.getLogger(name) for name in names)]
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]

    def set_up(**settings: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(Settings(**settings), stream)
        return stream

    yield set_up
    logging.captureWarnings(False)
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("retinue.test").makeRecord(
        "retinue.test", logging.INFO, "here.py", 1, message, args, None, extra=extra
    )


def test_a_record_is_one_json_object_with_what_it_brings_along(configure: Configure) -> None:
    stream = configure()
    logging.getLogger("retinue.web").info("%s\n%d", "GET", 200, extra={"trace_id": "ab" * 16, "ms": 1.5, "time": "x"})
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "retinue.web",
        "message": "GET\n200",
        "trace_id": "ab" * 16,
        "ms": 1.5,
    }


def test_an_error_brings_its_stack(configure: Configure) -> None:
    for form in ("json", "text"):
        stream = configure(log_format=form)
        try:
            raise ValueError("planted")
        except ValueError:
            logging.getLogger("retinue").exception("went wrong")
        text = stream.getvalue()
        assert "went wrong" in text
        assert "ValueError: planted" in text
        assert "Traceback" in text


def test_text_is_one_line_a_record_whatever_the_message(configure: Configure) -> None:
    stream = configure(log_format="text")
    logging.getLogger("retinue").warning("one\nINFO retinue: forged\x1b[2J", extra={"user": "a\nb", "empty": ""})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"WARNING retinue: one\nINFO retinue: forged\x1b[2J user=a\nb")


@pytest.mark.parametrize(
    "level, expected",
    [
        ("debug", ["retinue debug", "retinue info", "other info", "other warning", "httpx warning"]),
        ("info", ["retinue info", "other warning", "httpx warning"]),
        ("warning", ["other warning", "httpx warning"]),
        ("error", []),
    ],
)
def test_the_level_is_retinues_own_and_prompts_of_libraries_stay_out(
    configure: Configure, level: str, expected: list[str]
) -> None:
    stream = configure(log_level=level)
    logging.getLogger("retinue.runs").debug("retinue debug")
    logging.getLogger("retinue.runs").info("retinue info")
    logging.getLogger("other").info("other info")
    logging.getLogger("other").warning("other warning")
    logging.getLogger("httpx").info("httpx info")
    logging.getLogger("httpx").warning("httpx warning")
    assert [line["message"] for line in lines(stream)] == expected


def test_uvicorn_and_warnings_write_through_the_same_handler(configure: Configure) -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(io.StringIO()))
    stream = configure()
    logging.getLogger("uvicorn.error").error("cannot bind")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    assert [line["logger"] for line in lines(stream)] == ["uvicorn.error", "py.warnings"]


def test_setting_up_twice_writes_once(configure: Configure) -> None:
    first, second = configure(), configure()
    logging.getLogger("retinue").error("here")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


SECRETS = [
    (f"key {KEY} refused", KEY),
    ("Incorrect API key: sk-proj-abc_DEF-123456789", "abc_DEF"),
    ("x-api-key: sk-ant-api03-abcdefghijk", "abcdefghijk"),
    ("AIzaSyA-1234567890abcdefghijklmnop is wrong", "1234567890"),
    ("Authorization: Bearer abcdefgh.ijkl-mnop", "abcdefgh"),
    ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    ("connect postgresql://app:hunter2@db:5432/x failed", "hunter2"),
    ("redis://:hunter2@cache/0", "hunter2"),
    ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJzdWIiOiIxIn0"),
    ("{'password': 'hunter2hunter2'}", "hunter2"),
    ('{"refresh_token":"0123456789"}', "0123456789"),
    ("password=hunter2&name=x", "hunter2"),
    ("GET /v1/my/events/stream?ticket=abc.def", "abc.def"),
]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("text, secret", SECRETS)
def test_what_looks_like_a_secret_is_masked_wherever_it_stands(
    configure: Configure, form: str, text: str, secret: str
) -> None:
    stream = configure(log_format=form)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logging.getLogger("retinue").exception("%s", text, extra={"detail": text, "deep": {"inner": [text]}})
    written = stream.getvalue()
    assert secret not in written
    assert "***" in written
    if form == "json":
        assert len(lines(stream)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/my/agents 200",
        "input_tokens: 512, output_tokens: 64",
        "retinue at http://127.0.0.1:8700/docs",
        "the key rtn_live_a1B2 of ann@example.com",
        "a task-force of bearers",
        "max_tokens=8192 api_keys: 3 secrets",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert Mask()(text) == text


@pytest.mark.parametrize("secret", ["plain-value-of-some-proxy", 'quo"ted\\value', "grüße-vom-schlüssel"])
def test_the_settings_own_secrets_are_masked_whatever_they_look_like(configure: Configure, secret: str) -> None:
    dsn = f"postgresql://app:{quote(secret)}@db/x"
    stream = configure(openai_api_key=SecretStr(secret), database_url=SecretStr(dsn))
    logging.getLogger("retinue").error("sent %s, opened %s", secret, dsn.replace("postgresql://app:", ""))
    assert secret not in stream.getvalue()
    assert secret not in lines(stream)[0]["message"]
    assert quote(secret) not in stream.getvalue()


def test_short_values_are_no_secrets_to_look_for() -> None:
    assert Mask(["", "a", "demo"])("a demo of something") == "a demo of something"


def test_long_texts_are_cut() -> None:
    line = json.loads(JsonLines(Mask()).format(record("x" * 100_000, more="y" * 100_000)))
    assert len(line["message"]) <= LONGEST_TEXT + 2
    assert len(line["more"]) <= LONGEST_TEXT + 2


def test_a_broken_call_of_the_log_still_leaves_a_line() -> None:
    assert "%d of us" in json.loads(JsonLines(Mask()).format(record("%d of us", "three")))["message"]


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just("\ud800")
    | st.just(object()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(message=st.text(), value=ANYTHING)
def test_anything_can_be_logged(message: str, value: object) -> None:
    entry = record("%s", message, value=value)
    written = JsonLines(Mask([KEY])).format(entry)
    assert "\n" not in written
    assert json.loads(written)["level"] == "info"
    assert "\n" not in TextLines(Mask([KEY])).format(entry)
