"""The workspace keeps everything inside itself, whole, and within its quota."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from retinue.kernel import BadInput, Fault, NotFound, Settings, StorageFull, Unavailable, new_id
from retinue.tools import Workspace
from retinue.tools import workspace as module
from retinue.tools.workspace import split_path


def names(workspace: Workspace, path: str = "", *, recursive: bool = True) -> list[str]:
    return [entry.path + "/" * entry.folder for entry in workspace.entries(path, recursive=recursive)]


def test_write_list_read(workspace: Workspace) -> None:
    workspace.write("b.txt", b"two")
    workspace.write("docs/deep/a.txt", b"one")
    workspace.write("./b.txt", b"three")
    assert names(workspace) == ["b.txt", "docs/", "docs/deep/", "docs/deep/a.txt"]
    assert names(workspace, recursive=False) == ["b.txt", "docs/"]
    assert names(workspace, "docs/deep") == ["docs/deep/a.txt"]
    with workspace.open("b.txt") as file:
        assert file.read() == b"three"
    assert workspace.used() == 8


def test_it_is_private_to_the_server_s_user(workspace: Workspace) -> None:
    workspace.write("docs/a.txt", b"x")
    for path in (workspace.root, workspace.root / "docs", workspace.root / "docs/a.txt"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_two_sessions_do_not_share(settings: Settings) -> None:
    tenant, session = new_id(), new_id()
    first, again = (Workspace.of_session(settings, tenant, session) for _ in range(2))
    other = Workspace.of_session(settings, tenant, new_id())
    first.write("a", b"x")
    assert names(again) == ["a"]
    assert names(other) == []
    first.remove()
    first.remove()
    with pytest.raises(NotFound):
        names(again)


BAD_PATHS = [
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//etc/passwd",
    "a\0b",
    "a\nb",
    "a\x7fb",
    "a\N{LINE SEPARATOR}b",
    "\ud800",
    "x" * 256,
    "é" * 128,
    "/".join(["x" * 200] * 6),
    "/".join("x" * 33),
    ".retinue-1",
    "a/.RETINUE-1",
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_bad_paths_are_refused_by_name(workspace: Workspace, path: str) -> None:
    for use in _uses(workspace, path):
        with pytest.raises(BadInput) as refused:
            use()
        assert refused.value.field == "path"


def _uses(workspace: Workspace, path: str) -> list[Callable[[], object]]:
    return [
        lambda: workspace.open(path),
        lambda: workspace.write(path, b"x"),
        lambda: names(workspace, path),
    ]


@pytest.mark.parametrize("path", ["", ".", "a/", "./"])
def test_a_folder_is_not_a_file(workspace: Workspace, path: str) -> None:
    with pytest.raises(BadInput):
        workspace.open(path)
    with pytest.raises(BadInput):
        workspace.write(path, b"x")


def test_ordinary_odd_names_are_fine(workspace: Workspace) -> None:
    odd = [
        "a b",
        "…",
        "-rf",
        "~",
        "$HOME",
        "a\\b",
        "Screenshot at 1.00\N{NARROW NO-BREAK SPACE}PM.png",
        "é" * 127,
        "...",
    ]
    for name in odd:
        workspace.write(name, name.encode())
    assert sorted(names(workspace)) == sorted(odd)


def test_missing_files_and_folders(workspace: Workspace) -> None:
    for use in (lambda: workspace.open("no"), lambda: workspace.open("no/no"), lambda: names(workspace, "no")):
        with pytest.raises(NotFound, match="no"):
            use()


def test_a_file_is_not_a_folder(workspace: Workspace) -> None:
    workspace.write("a", b"x")
    with pytest.raises(BadInput):
        workspace.open("a/b")
    with pytest.raises(BadInput):
        workspace.write("a/b", b"x")
    with pytest.raises(BadInput):
        names(workspace, "a")
    workspace.write("folder/x", b"x")
    with pytest.raises(BadInput):
        workspace.write("folder", b"x")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside the workspace, in a folder of its own."""
    path = tmp_path / "outside" / "secret.txt"
    path.parent.mkdir()
    path.write_text("secret")
    return path


def test_links_are_not_followed(workspace: Workspace, secret: Path) -> None:
    (workspace.root / "file-link").symlink_to(secret)
    (workspace.root / "folder-link").symlink_to(secret.parent)
    (workspace.root / "inside").mkdir()
    (workspace.root / "inside" / "up").symlink_to("../../../..")
    for path in ("file-link", "folder-link/secret.txt", "inside/up/x"):
        with pytest.raises(BadInput):
            workspace.open(path)
        with pytest.raises(BadInput):
            workspace.write(path, b"overwritten")
    with pytest.raises(BadInput):
        names(workspace, "folder-link")
    assert names(workspace) == ["inside/"]
    assert secret.read_text() == "secret"
    assert list(secret.parent.iterdir()) == [secret]


def test_a_linked_root_is_refused(workspace: Workspace, secret: Path) -> None:
    workspace.root.rmdir()
    workspace.root.symlink_to(secret.parent)
    for use in _uses(workspace, "secret.txt"):
        with pytest.raises(Fault):
            use()
    assert secret.read_text() == "secret"


def test_devices_pipes_and_sockets_are_refused_at_once(workspace: Workspace) -> None:
    os.mkfifo(workspace.root / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(workspace.root)  # the path of a socket must be short
    try:
        listener.bind("socket")
    finally:
        os.chdir(here)
    special = ["pipe", "socket"]
    if os.geteuid() == 0:
        os.mknod(workspace.root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        special.append("device")
    for name in special:
        with pytest.raises(BadInput):
            workspace.open(name)
        with pytest.raises(BadInput):
            workspace.write(name, b"x")
    assert names(workspace) == []
    listener.close()


def test_a_folder_that_turns_into_a_link_again_and_again(workspace: Workspace, secret: Path) -> None:
    """A race: another program swaps a folder for a link while files are written and read below it."""
    stop = threading.Event()

    def swap() -> None:
        swapped = workspace.root / "folder"
        while not stop.is_set():
            with suppress(OSError):  # the writes make it a folder again, at any moment
                swapped.symlink_to(secret.parent)
                swapped.unlink()
            shutil.rmtree(swapped, ignore_errors=True)

    swapper = threading.Thread(target=swap)
    swapper.start()
    reached = 0
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            for use in (lambda: workspace.open("folder/secret.txt"), lambda: workspace.write("folder/new", b"x")):
                try:
                    use()
                    reached += 1
                except (BadInput, NotFound):
                    pass
    finally:
        stop.set()
        swapper.join()
    assert reached > 0, "the race was never run: no write got through"
    assert list(secret.parent.iterdir()) == [secret]


def test_the_race_would_be_noticed(workspace: Workspace, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: folders opened with links followed."""
    monkeypatch.setattr(module, "_FOLDER_FLAGS", os.O_RDONLY | os.O_DIRECTORY)
    (workspace.root / "folder").symlink_to(secret.parent)
    workspace.write("folder/new", b"x")
    assert (secret.parent / "new").exists()


def test_the_quota_is_exact_across_threads(settings: Settings) -> None:
    workspace = Workspace(Workspace.of_session(settings, new_id(), new_id()).root, quota=10_000)
    outcomes: list[bool] = []

    def write(number: int) -> None:
        try:
            workspace.write(f"f{number}", b"x" * 1000)
            outcomes.append(True)
        except StorageFull:
            outcomes.append(False)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = sum(entry.size for entry in workspace.entries())
    assert stored <= 10_000
    assert outcomes.count(True) * 1000 == stored
    assert outcomes.count(False) > 0


def test_replacing_a_file_counts_only_the_difference(settings: Settings) -> None:
    workspace = Workspace(Workspace.of_session(settings, new_id(), new_id()).root, quota=1000)
    workspace.write("a", b"x" * 900)
    workspace.write("a", b"y" * 1000)
    with pytest.raises(StorageFull):
        workspace.write("a", b"z" * 1001)
    with pytest.raises(StorageFull):
        workspace.write("deep/b", b"z")
    assert names(workspace) == ["a"]
    with workspace.open("a") as file:
        assert file.read() == b"y" * 1000


def test_too_many_files(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FILES", 5)
    for number in range(5):
        (workspace.root / f"f{number}").touch()
    with pytest.raises(StorageFull, match="files"):
        workspace.write("one-more", b"x")


def test_what_a_dead_process_left_is_not_seen_and_goes_away(workspace: Workspace) -> None:
    fresh, stale = workspace.root / ".retinue-fresh", workspace.root / ".retinue-stale"
    for path in (fresh, stale):
        path.write_bytes(b"x" * 100)
    os.utime(stale, (time.time() - 7200, time.time() - 7200))
    assert names(workspace) == []
    assert workspace.used() == 100
    assert fresh.exists()
    assert not stale.exists()


def test_a_draft_that_is_not_kept_leaves_nothing(workspace: Workspace) -> None:
    workspace.write("a", b"old")
    with workspace.receiving("a") as draft:
        draft.file.write(b"half of the new")
    assert list(workspace.root.iterdir()) == [workspace.root / "a"]
    with workspace.open("a") as file:
        assert file.read() == b"old"


def test_kill_minus_nine_leaves_the_old_file_or_the_new_one(workspace: Workspace) -> None:
    old, new = b"a" * 300_000, b"b" * 200_000
    workspace.write("file", old)
    program = (
        "import sys\nfrom pathlib import Path\nfrom retinue.tools import Workspace\n"
        "workspace = Workspace(Path(sys.argv[1]), 10**9)\n"
        f"old, new = b'a' * {len(old)}, b'b' * {len(new)}\n"
        "print('ready', flush=True)\n"
        "while True:\n    workspace.write('file', new)\n    workspace.write('file', old)\n"
    )
    for round_ in range(3):
        child = subprocess.Popen([sys.executable, "-c", program, str(workspace.root)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.03 + 0.017 * round_)  # any moment will do: the point is that none is special
        child.kill()
        child.wait()
        child.stdout.close()
        with workspace.open("file") as file:
            assert file.read() in (old, new)


def test_a_full_disk_is_said_to_be_full(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        workspace.write("a", b"x")
    assert list(workspace.root.iterdir()) == []


def test_another_trouble_of_the_disk_is_temporary(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Unavailable):
        workspace.write("a", b"x")


def test_split_path() -> None:
    assert split_path("") == []
    assert split_path("./a//b/.") == ["a", "b"]
