"""`retinue doctor sandbox`: what people see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retinue.cli.program import build
from tests.support.sandboxes import ROOT


def doctor(*arguments: str) -> tuple[int, str]:
    """Run the doctor; return its exit code and what it printed."""
    result = CliRunner().invoke(build(), ["doctor", "sandbox", *arguments])
    return (1 if result.exception is not None else 0), result.stdout


def test_each_piece_is_named_and_the_folder_is_not_made(tmp_path: Path) -> None:
    code, text = doctor("--data", str(tmp_path / "data"))
    assert code == 0
    assert f"bubblewrap, level {'A' if ROOT else 'B'}" in text
    for piece in ("walls", "control groups", "volume", "user id", "landlock"):
        assert piece in text
    assert not (tmp_path / "data").exists()


def test_what_is_missing_is_said_and_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    code, text = doctor("--data", str(tmp_path / "data"), "--json")
    first = json.loads(text)["findings"][0]
    assert (code, first["state"]) == (1, "cannot")
    assert "not installed" in first["text"]
    assert "apt-get install bubblewrap" in first["advice"]


def test_a_sandbox_that_is_switched_off_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_SANDBOX", "none")
    code, text = doctor("--data", str(tmp_path / "data"))
    assert (code, "no operation is run" in text) == (0, True)


def test_an_engine_without_its_setting_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_SANDBOX", "kubernetes")
    code, text = doctor("--data", str(tmp_path / "data"))
    assert (code, "RETINUE_SANDBOX_CLAIM" in text) == (1, True)
