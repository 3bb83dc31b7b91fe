"""Reads operations for the board from files: CSV as the export writes it, or JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.screen import Json

FIELDS = ("title", "description", "state", "priority", "labels", "due", "team", "assignee", "parent")
_ABOUT = frozenset({"created_at", "changed_at", "created_by", "version", "delete"})
_EMPTIED = frozenset({"due", "team", "assignee", "parent"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def operations(path: Path) -> list[Json]:
    """Return the operations of a file. A row or line with an ``item_id`` changes that item, another makes one.

    In a CSV a column that is not there leaves its field as it is; a column ``delete`` with something in it deletes. A
    JSON line is an operation as the API takes it, or an item's fields.

    Raises:
        Failure: the file cannot be read; the line is named.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_of_csv(file, path) if path.suffix.lower() == ".csv" else _of_lines(file, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Failure(f"{path} cannot be read: {error}", ExitCode.USAGE) from None


def _of_csv(file: Any, path: Path) -> Iterator[Json]:
    rows = csv.DictReader(file)
    unknown = set(rows.fieldnames or ()) - {*FIELDS, *_ABOUT, "item_id"}
    if unknown or not rows.fieldnames:
        known = ", ".join(("item_id", *FIELDS, "delete"))
        raise Failure(
            f"{path}: no such column: {', '.join(sorted(unknown)) or '(none)'}. Known: {known}", ExitCode.USAGE
        )
    for row in rows:
        if None in row:
            raise Failure(f"{path}, line {rows.line_num}: more cells than columns.", ExitCode.USAGE)
        cells = {name: _armed(value or "") for name, value in row.items() if name in FIELDS}
        item_id = row.get("item_id")
        if row.get("delete"):
            yield {"op": "delete", "item_id": item_id}
            continue
        fields = {name: _value(name, value) for name, value in cells.items() if item_id or value}
        yield {"op": "change", "item_id": item_id, "fields": fields} if item_id else {"op": "create", "fields": fields}


def _armed(cell: str) -> str:
    """Take away the apostrophe that the export puts before what looks like a formula."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _value(name: str, cell: str) -> Any:
    if name == "labels":
        return [one.strip() for one in cell.split(",") if one.strip()]
    return None if not cell and name in _EMPTIED else cell


def _of_lines(file: Any, path: Path) -> Iterator[Json]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise Failure(f"{path}, line {number}: no JSON: {error}", ExitCode.USAGE) from None
        if not isinstance(found, dict):
            raise Failure(f"{path}, line {number}: an object is needed.", ExitCode.USAGE)
        if "op" in found:
            yield found
            continue
        fields = {name: value for name, value in found.items() if name in FIELDS}
        item_id = found.get("item_id")
        yield {"op": "change", "item_id": item_id, "fields": fields} if item_id else {"op": "create", "fields": fields}
