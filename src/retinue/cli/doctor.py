"""`retinue doctor`: look at everything a server needs, repair what can be repaired, say what cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.diagnosis import Finding, Patient, State
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import AsJson
from retinue.cli.screen import Screen

_STYLES: dict[State, str] = {"ok": "green", "note": "yellow", "repaired": "cyan", "cannot": "bold red"}


def doctor(
    part: Annotated[
        Literal["sandbox"] | None, typer.Argument(help="Look at this alone, and say everything about it.")
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair what can be repaired.")] = False,
    models: Annotated[bool, typer.Option("--models", help="Really ask a model, which may cost a little.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Only print the settings, without secrets.")] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Check this server: each line is ok, a note, repaired, or what you have to do. Exit code 1 if there is any."""
    screen = Screen(as_json)
    loaded = load_settings(data=data)
    if settings:
        _print_settings(screen, loaded)
        return
    findings = asyncio.run(examine(Patient(loaded, fix=fix, ask_models=models), screen, part))
    cannot = [finding for finding in findings if finding.state == "cannot"]
    if as_json:
        screen.document({"ok": not cannot, "findings": [asdict(finding) for finding in findings]})
    if cannot:
        raise Failure(f"{len(cannot)} of {len(findings)} need you.", ExitCode.FAILED)


async def examine(patient: Patient, screen: Screen, part: str | None = None) -> list[Finding]:
    """Run every check, or those of one part, printing each finding as it comes."""
    from retinue.cli import machine_checks as machine
    from retinue.cli.sandbox_checks import sandbox

    findings: list[Finding] = []

    def note(found: Finding | Iterable[Finding]) -> None:
        for finding in [found] if isinstance(found, Finding) else found:
            findings.append(finding)
            _print(screen, finding)

    if part == "sandbox":
        note(await sandbox(patient, whole=True))
        return findings
    for check in (machine.python, machine.data_folder, machine.disk_space, machine.root_key):
        note(check(patient))
    note(await machine.port(patient))
    note(await _database(patient))
    note(await machine.redis(patient))
    note(await machine.models(patient))
    note(machine.programs(patient))
    note(await sandbox(patient, whole=False))
    return findings


async def _database(patient: Patient) -> list[Finding]:
    """Reach the database, starting the embedded one for the time of the examination, and look at it."""
    from asyncpg import PostgresError

    from retinue.cli.opening import about_the_database
    from retinue.house import House
    from retinue.kernel import Fault

    embedded = patient.settings.database_url is None
    if embedded and not (patient.settings.data / "roles.ready").exists():
        return [Finding("database", "note", "none yet; the first start makes it in the data folder")]
    house = House(patient.settings)
    try:
        dsn, patient.owner_dsn = await house.open_database_server(serve=False)
        database = await house.open_pool(dsn)
        where = "embedded in the data folder" if embedded else "as DATABASE_URL says"
        return [Finding("database", "ok", f"answers, {where}"), *await _look_inside(patient, dsn, database)]
    except Fault as fault:
        return [Finding("database", "cannot", fault.detail, "Start it, or correct DATABASE_URL.")]
    except (OSError, PostgresError) as error:
        return [Finding("database", "cannot", str(about_the_database(error)), "Start it, or correct DATABASE_URL.")]
    except (RuntimeError, AssertionError) as error:  # the embedded server does not start
        return [Finding("database", "cannot", f"{type(error).__name__}: {error}")]
    finally:
        await house.close()


async def _look_inside(patient: Patient, dsn: str, database: Any) -> list[Finding]:
    from retinue.cli import database_checks as checks

    findings = [await checks.schema(patient, patient.owner_dsn or dsn)]
    if findings[0].state == "cannot":
        return findings  # nothing else can be said about a schema that is not ours
    findings += await checks.fences(database)
    findings.append(await checks.vault(patient, database))
    findings.append(await checks.clock(database))
    findings.append(await checks.workers(database))
    return findings + await checks.bookkeeping(patient, database)


def _print(screen: Screen, finding: Finding) -> None:
    if screen.as_json:
        return
    from rich.text import Text

    line = Text(f"{finding.state:<9}", style=_STYLES[finding.state])
    line.append(f"{finding.name:<20}", style="bold")
    line.append(finding.text, style="")
    screen.out.print(line)
    if finding.advice:
        screen.line(f"{'':<29}{finding.advice}")


def _print_settings(screen: Screen, settings: Any) -> None:
    from retinue.cli.configuration import variable

    values = {name: _shown(getattr(settings, name)) for name in type(settings).model_fields}
    if screen.as_json:
        screen.document(values)
        return
    width = max(len(variable(name)) for name in values)
    for name, value in values.items():
        screen.line(f"{variable(name):<{width}}  {'' if value is None else value}")


def _shown(value: Any) -> Any:
    """Return a setting as it may be shown: a secret only tells that it is set."""
    if hasattr(value, "get_secret_value"):
        return "(set)"
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(rich_help_panel="The server")(doctor)
