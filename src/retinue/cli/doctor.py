import typer


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
