"""Reads the server's settings for a command; what is wrong with them is said in one line each."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.failures import ExitCode, Failure

if TYPE_CHECKING:
    from pydantic import ValidationError

    from retinue.kernel import Settings

Data = Annotated[
    Path | None,
    typer.Option("--data", help="The data folder. Without it: RETINUE_DATA, or ~/.retinue.", file_okay=False),
]

_OF_THE_COMMAND_LINE = frozenset({"RETINUE_SERVER", "RETINUE_TENANT", "RETINUE_API_KEY"})
"""Variables that the commands read and the server does not."""


def load_settings(**given: Any) -> Settings:
    """Read the environment, ``.env`` and ``retinue.toml``; ``given`` goes before them, None is as if not given.

    Raises:
        Failure: a setting is unknown or invalid; every one is named.
    """
    from pydantic import ValidationError

    from retinue.kernel import Settings

    wrong = list(_unknown(set(Settings.model_fields)))
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong += _invalid(error)
    except (OSError, ValueError) as error:  # a file named by NAME_FILE, or retinue.toml
        wrong.append(f"the settings cannot be read: {error}")
    else:
        wrong += _no_database(settings)
    if wrong:
        raise Failure("\n         ".join(wrong), ExitCode.USAGE)
    return settings


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    from pydantic import AliasChoices

    from retinue.kernel import Settings

    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"RETINUE_{field.upper()}"


def _invalid(error: ValidationError) -> Iterator[str]:
    from retinue.kernel import Settings

    for one in error.errors(include_url=False, include_input=False):
        name = str(one["loc"][0]) if one["loc"] else "settings"
        field = next((known for known in Settings.model_fields if known == name.lower() or variable(known) == name), "")
        yield f"{variable(field) if field else name}: {one['msg'].lower()}"


def _no_database(settings: Settings) -> Iterator[str]:
    """Name the URLs that are none of PostgreSQL's, without showing them: they may hold a password."""
    for field in ("database_url", "database_owner_url"):
        url = getattr(settings, field)
        if url is not None and not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            yield f"{variable(field)}: write it as postgresql://USER:PASSWORD@HOST/DATABASE"


def _unknown(fields: set[str]) -> Iterator[str]:
    known = {f"RETINUE_{field.upper()}": field for field in fields}
    for name in sorted(os.environ):
        if not name.startswith("RETINUE_") or name in _OF_THE_COMMAND_LINE:
            continue
        if name.removesuffix("_FILE") not in known and name not in known:
            yield f"{name} is no setting{_nearest(name, list(known))}"
    for key in sorted(_keys_of_the_file()):
        if key.lower() not in fields and key not in {variable(field) for field in fields}:
            yield f"{key} in retinue.toml is no setting{_nearest(key, sorted(fields))}"


def _nearest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "."


def _keys_of_the_file() -> set[str]:
    try:
        return set(tomllib.loads(Path("retinue.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()  # missing; or broken, which reading the settings reports
