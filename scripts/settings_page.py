"""Prints docs/configuration.md from the settings themselves."""

import inspect
import re
from html import escape
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo

from retinue.kernel import Settings, settings

INTRO = """\
# Configuration

<!-- Generated from src/retinue/kernel/settings.py by scripts/settings_page.py; run `make generate`. -->

Every setting has a default; a server starts without any. They are read from, in this order:

1. options of the command (`--port`, `--host`, `--data`),
2. environment variables, with the names below,
3. for the same names with `_FILE` behind them: the file that is named, without its last line end, for secrets,
4. a file `.env` in the working directory, `NAME=value` a line,
5. a file `retinue.toml` in the working directory, with the names in lower case and without `RETINUE_`: `port = 9000`.

An unknown `RETINUE_...` variable, an unknown key in `retinue.toml`, or an invalid value stops the start, with one line
for each. An empty variable counts as not set. Servers and workers on the same database want the same settings.
`retinue doctor` checks what they lead to.

The command line itself reads `RETINUE_SERVER` (URL of the server), `RETINUE_TENANT` (name or id) and `RETINUE_API_KEY`.
"""


def page() -> str:
    """Return the page's text."""
    return "\n".join([INTRO, *(_section(title, names) for title, names in _sections().items())])


def _sections() -> dict[str, list[str]]:
    """Return the settings under the comments that head them in the source, in its order."""
    source = Path(inspect.getfile(settings)).read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    title = ""
    for line in source.splitlines():
        if heading := re.match(r"    # (\w.*)$", line):
            title = heading[1]
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in Settings.model_fields:
            found.setdefault(title, []).append(field[1])
    missing = set(Settings.model_fields) - {name for names in found.values() for name in names}
    if missing:
        raise LookupError(f"not found in the source: {sorted(missing)}")
    return found


def _section(title: str, names: list[str]) -> str:
    rows = [_row(name, Settings.model_fields[name]) for name in names]
    return "\n".join([f"## {title}", "", "| Name | Default | Meaning |", "|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    variable = alias.choices[0] if isinstance(alias, AliasChoices) else f"RETINUE_{name.upper()}"
    meaning = "; ".join(part for part in (field.description or "", _choices(field.annotation), _bounds(field)) if part)
    secret = " (secret)" if SecretStr in (field.annotation, *get_args(field.annotation)) else ""
    return f"| `{variable}` | {_default(field)} | {escape(meaning, quote=False)}{secret} |"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "`~/.retinue`" if field.annotation is Path else "computed"
    value = field.default
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _choices(annotation: Any) -> str:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    values = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    return ", ".join(f"`{value}`" for value in values[:-1]) + f" or `{values[-1]}`" if values else ""


def _bounds(field: FieldInfo) -> str:
    names = (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))
    found = [f"{word} {getattr(one, name)}" for one in field.metadata for name, word in names if hasattr(one, name)]
    return " ".join(found)


if __name__ == "__main__":
    print(page(), end="")
