"""`retinue sign-up`, `login`, `logout`, `password`, `whoami`: who this command line acts as."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote, remote
from retinue.cli.screen import Json

Email = Annotated[str | None, typer.Option("--email", help="Your e-mail address; asked for when missing.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
Name = Annotated[str | None, typer.Option("--name", help="What to call you.")]


@remote
def sign_up(cli: Remote, email: Email = None, name: Name = None, password_stdin: PasswordStdin = False) -> None:
    """Make an account on a server and stay signed in."""
    email = email or _asked("E-mail")
    login = cli.client.sign_up(email, _password(password_stdin, new=True), name)
    _signed_in(cli, "Signed up", login.email, login.user_id, login.tenant_id)


@remote
def log_in(
    cli: Remote,
    email: Email = None,
    password_stdin: PasswordStdin = False,
    new: Annotated[bool, typer.Option("--new", help="Make the account first (the same as sign-up).")] = False,
) -> None:
    """Sign in to a server; the login is kept for the commands that follow."""
    email = email or _asked("E-mail")
    enter = cli.client.sign_up if new else cli.client.log_in
    login = enter(email, _password(password_stdin, new=new))
    _signed_in(cli, "Signed in", login.email, login.user_id, login.tenant_id)


@remote
def log_out(cli: Remote) -> None:
    """End the login, here and at the server."""
    cli.client.log_out()
    cli.done(f"Signed out at {cli.client.server}.")


@remote
def change_password(
    cli: Remote,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read two lines from standard input: the present and the new one.")
    ] = False,
) -> None:
    """Change your password. Every other login ends; API keys stay."""
    current = _password(password_stdin, what="Present password")
    login = cli.client.change_password(current, _password(password_stdin, new=True, what="New password"))
    cli.done(f"{login.email} has a new password at {cli.client.server}. Every other login has ended.")


@remote
def who_am_i(cli: Remote) -> None:
    """Show who is signed in, and in which tenants."""
    profile = cli.client.get("/v1/my/profile")
    cli.show(
        profile,
        [
            ("server", lambda _: cli.client.server),
            ("e-mail", "email"),
            ("name", "name"),
            ("user", "user_id"),
            ("tenants", lambda item: "\n".join(_tenant_line(tenant) for tenant in item["tenants"])),
        ],
    )


def _tenant_line(tenant: Json) -> str:
    kind = "personal" if tenant.get("personal") else tenant["role"]
    return f"{tenant['tenant_id']}  {tenant['name']} ({kind})"


def _signed_in(cli: Remote, what: str, email: str, user_id: str, tenant_id: str) -> None:
    item = {"server": cli.client.server, "email": email, "user_id": user_id, "tenant_id": tenant_id}
    cli.done(f"{what} at {cli.client.server} as {email}.", item)


def _asked(what: str) -> str:
    if not sys.stdin.isatty():
        raise Failure(f"{what} is missing; give it as an option.", ExitCode.USAGE)
    return str(typer.prompt(what, err=True)).strip()


def _password(from_stdin: bool, *, new: bool = False, what: str = "Password") -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Failure("The password is missing; pipe it in with --password-stdin.", ExitCode.USAGE)
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True))


def add_to(program: typer.Typer) -> None:
    """Hang the commands into the program."""
    panel = "Your account"
    program.command("sign-up", rich_help_panel=panel)(sign_up)
    program.command("login", rich_help_panel=panel)(log_in)
    program.command("logout", rich_help_panel=panel)(log_out)
    program.command("password", rich_help_panel=panel)(change_password)
    program.command("whoami", rich_help_panel=panel)(who_am_i)
