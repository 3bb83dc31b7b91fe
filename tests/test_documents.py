"""Documents: links lead somewhere, and the table of measurements is what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.measured import BEGIN, END, filled

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def documents(root: Path) -> list[Path]:
    """The documents of a repository."""
    return sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")])


def dead_links(root: Path) -> Iterator[str]:
    """Relative links to files or headings that do not exist."""
    for document in documents(root):
        for link in _LINK.findall(_CODE.sub("", document.read_text(encoding="utf-8"))):
            path, _, heading = link.partition("#")
            target = (document.parent / path) if path else document
            if re.match(r"[a-z]+:", link):
                continue
            if not target.exists() or (heading and heading not in headings(target)):
                yield f"{document.relative_to(root)}: {link}"


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_lead_somewhere() -> None:
    assert len(documents(ROOT)) > 15
    assert list(dead_links(ROOT)) == []


@pytest.mark.parametrize("link", ["gone.md", "README.md#gone", "#gone", "docs/"])
def test_a_planted_dead_link_is_seen(link: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        f"# Here, and now\n[a](README.md#here-and-now) [b](#here-and-now) [c](https://x.test/y) `[d](e)` [f]({link})\n"
    )
    assert list(dead_links(tmp_path)) == [f"README.md: {link}"]


ROW = {"name": "turn", "unit": "ms", "floor": 9.5, "measured": 12345.6, "goal": 16.5, "met": False}
RESULTS: dict[str, Any] = {
    "machine": {"cores": 2, "processor": "a processor", "memory_gb": 24.0, "system": "Linux 6"},
    "versions": {"python": "3.11.7"},
    "quick": True,
    "rows": [ROW, {**ROW, "name": "failures", "floor": None, "measured": 0, "goal": 0, "met": True}],
}


def test_the_table_says_what_was_measured_and_what_was_missed() -> None:
    text = filled(f"before\n{BEGIN}\nold\n{END}\nafter\n", RESULTS)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "| turn | ms | 9.50 | 12,346 | 16.5 | **missed** |" in text
    assert "| failures | ms | - | 0 | 0 | met |" in text
    assert "1 of 2 goals met." in text
    assert "A quick run" in text
    assert filled(text, RESULTS) == text


@pytest.mark.parametrize("document", ["nothing", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_document_without_its_marks_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        filled(document, None)
