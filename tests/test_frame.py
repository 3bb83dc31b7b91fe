"""The project's own tools: the set-up, the checks of locks and generated files, and the rule against skips in CI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_generated, check_locks

ROOT = Path(__file__).resolve().parent.parent

PROJECT = {
    "project": {"dependencies": ["asyncpg~=0.32.0"]},
    "dependency-groups": {"dev": ["pytest>=9"]},
}
HASH = f" \\\n    --hash=sha256:{'0' * 64}\n    # via something\n"
SERVER_LOCK = f"# made by\nasyncpg==0.32.1{HASH}"
DEVELOPMENT_LOCK = f"{SERVER_LOCK}pytest==9.2.0 ; python_version < '4'{HASH}"


def test_fitting_locks_are_passed() -> None:
    assert check_locks.problems(PROJECT, SERVER_LOCK, DEVELOPMENT_LOCK) == []


@pytest.mark.parametrize(
    "server, development, said",
    [
        ("", DEVELOPMENT_LOCK, "asyncpg~=0.32.0 is required, nothing is locked"),
        (SERVER_LOCK.replace("0.32.1", "0.33.0"), DEVELOPMENT_LOCK, "asyncpg~=0.32.0 is required, 0.33.0 is locked"),
        (SERVER_LOCK, SERVER_LOCK, "pytest>=9 is required, nothing is locked"),
        (SERVER_LOCK, DEVELOPMENT_LOCK.replace("0.32.1", "0.32.2"), "asyncpg: the server's lock has 0.32.1"),
        ("asyncpg==0.32.1\n", DEVELOPMENT_LOCK, "has no hash: asyncpg==0.32.1"),
        (f"--index-url x\n{SERVER_LOCK}", DEVELOPMENT_LOCK, "names an index or an address: --index-url x"),
        (SERVER_LOCK, f"{DEVELOPMENT_LOCK}a @ https://example.org/a.whl{HASH}", "names an index or an address: a @"),
    ],
)
def test_a_lock_that_does_not_fit_is_named(server: str, development: str, said: str) -> None:
    assert any(said in problem for problem in check_locks.problems(PROJECT, server, development))


def test_a_lock_of_the_s3_service_that_does_not_fit_is_named() -> None:
    wanted, lock = "# why\nmoto[s3]~=5.2\n", f"moto==5.2.5{HASH}"
    assert check_locks.s3_problems(wanted, lock) == []
    assert "5.1.0 is locked" in check_locks.s3_problems(wanted, lock.replace("5.2.5", "5.1.0"))[0]
    assert "has no hash" in check_locks.s3_problems(wanted, "moto==5.2.5\n")[0]


def test_a_stale_generated_file_is_named_with_its_right_content(tmp_path: Path) -> None:
    generator = check_generated.Generated("zen.txt", "this")
    assert set(check_generated.stale([generator], tmp_path)) == {tmp_path / "zen.txt"}

    content = check_generated.printed(generator)
    (tmp_path / "zen.txt").write_bytes(content)
    assert check_generated.stale([generator], tmp_path) == {}

    (tmp_path / "zen.txt").write_bytes(content + b"edited by hand\n")
    assert check_generated.stale([generator], tmp_path) == {tmp_path / "zen.txt": content}


SUITE = """
import pytest

def test_runs(): pass

@pytest.mark.xfail(reason="known", strict=True)
def test_fails_as_expected(): assert False

def test_skips():{skip}
"""


def run_suite(folder: Path, test: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.plugins.no_skips", "-p", "no:cacheprovider", folder],
        cwd=ROOT,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "test",
    [
        SUITE.format(skip=' pytest.skip("no redis here")'),
        SUITE.format(skip=" pass") + '\npytest.skip("no redis here", allow_module_level=True)\n',
    ],
    ids=["test", "module"],
)
def test_a_skip_fails_in_ci_and_only_there(test: str, tmp_path: Path) -> None:
    at_home = run_suite(tmp_path, test, ci="")
    assert "skipped" in at_home.stdout.splitlines()[-1]
    assert at_home.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)

    in_ci = run_suite(tmp_path, test, ci="true")
    assert in_ci.returncode != 0
    assert "everything must run: no redis here" in in_ci.stdout


def test_a_suite_without_skips_passes_in_ci(tmp_path: Path) -> None:
    ran = run_suite(tmp_path, SUITE.format(skip=" pass"), ci="true")
    assert ran.returncode == 0, ran.stdout
    assert "2 passed, 1 xfailed" in ran.stdout.splitlines()[-1]


def set_up(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "scripts" / "setup"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the set-up reads of the repository, elsewhere."""
    (tmp_path / "scripts").mkdir()
    for path in ("scripts/setup", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / path, tmp_path / path)
    return tmp_path


def test_the_set_up_says_which_python_it_needs(checkout: Path) -> None:
    refused = set_up(checkout, PYTHON="no-such-python")
    assert refused.returncode != 0
    assert "Python 3.11 or newer is needed" in refused.stderr
    assert "Looked for: no-such-python" in refused.stderr
    assert not (checkout / ".venv").exists()


def test_the_set_up_passes_over_a_python_that_is_too_old(checkout: Path) -> None:
    old = checkout / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert "Python 3.11 or newer is needed" in set_up(checkout, PYTHON=str(old)).stderr


def test_the_set_up_does_nothing_until_a_lock_changes(checkout: Path) -> None:
    names = ("pyproject.toml", "requirements-dev.lock", "scripts/setup")
    stamp = subprocess.run(["cksum", *names], cwd=checkout, capture_output=True, text=True, check=True).stdout
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".setup-stamp").write_text(stamp)
    for name in ("python", "retinue"):
        (checkout / ".venv" / "bin" / name).symlink_to(shutil.which("true") or "/usr/bin/true")
    done = set_up(checkout, PYTHON="no-such-python")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    with (checkout / "requirements-dev.lock").open("a") as lock:
        lock.write("# changed\n")
    (checkout / ".venv" / "bin" / "python").unlink()
    assert set_up(checkout, PYTHON="no-such-python").returncode != 0


def test_make_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in listed.stdout.splitlines()} == targets
    assert {"run", "test", "check", "bench", "demo", "setup"} <= targets
