"""What is collected from a workspace that a hostile program left."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from retinue.sandbox import Taking, collect
from retinue.sandbox.collecting import Collection, Found, shown


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A workspace, and a file of the server's next to it."""
    (tmp_path / "outside.txt").write_text("secret")
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def names(work: Path, **taking: int) -> list[str]:
    """The names of what is taken."""
    with collect(work, taking=Taking(**taking)) as collection:  # type: ignore[arg-type]
        return [found.name for found in collection.found]


def reasons(work: Path, **taking: int) -> dict[str, str]:
    """What is not taken, and why."""
    with collect(work, taking=Taking(**taking)) as collection:  # type: ignore[arg-type]
        return {skipped.name: skipped.reason for skipped in collection.skipped}


def test_files_are_taken_in_the_order_of_their_names(work: Path) -> None:
    (work / "b").mkdir()
    for name in ("z", "b/y", "a"):
        (work / name).write_text(name)
    with collect(work) as collection:
        assert [(one.name, one.size, one.sha256) for one in collection.found] == [
            (name, len(name), hashlib.sha256(name.encode()).hexdigest()) for name in ("a", "b/y", "z")
        ]


def test_links_are_never_followed(work: Path) -> None:
    (work / "file").symlink_to(work.parent / "outside.txt")
    (work / "folder").symlink_to(work.parent)
    (work / "loop").symlink_to(".")
    assert names(work) == []
    assert set(reasons(work).values()) == {"it is a symbolic link"}


def test_a_workspace_that_is_a_link_itself_is_refused(work: Path) -> None:
    (work.parent / "link").symlink_to(work)
    with pytest.raises(OSError, match="link"):
        collect(work.parent / "link")


def test_a_file_with_a_name_outside_is_not_taken(work: Path) -> None:
    os.link(work.parent / "outside.txt", work / "taken.txt")
    (work / "one").write_text("1")
    os.link(work / "one", work / "two")
    assert names(work) == ["one", "two"]
    assert "another name" in reasons(work)["taken.txt"]


def test_pipes_sockets_and_devices_do_not_stop_it(work: Path) -> None:
    os.mkfifo(work / "pipe")
    (work / "file").write_text("x")
    assert names(work) == ["file"]
    assert reasons(work)["pipe"] == "it is a pipe"


def test_a_sparse_file_counts_by_what_it_claims(work: Path) -> None:
    with open(work / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert names(work) == []
    assert "1099511627776 bytes" in reasons(work)["sparse"]


def test_all_files_together_are_limited(work: Path) -> None:
    for number in range(5):
        (work / str(number)).write_bytes(b"x" * 8192)
    assert names(work, total_bytes=20_000) == ["0", "1"]
    # Ten files of one byte take a block each.
    for number in range(5):
        (work / str(number)).write_bytes(b"x")
    block = (work / "0").stat().st_blocks * 512
    assert len(names(work, total_bytes=block * 3)) == 3


def test_the_number_of_files_is_limited_and_inputs_do_not_count(work: Path) -> None:
    for number in range(5):
        (work / str(number)).write_text(str(number))
    assert names(work, files=3) == ["0", "1", "2"]
    same = {"0": hashlib.sha256(b"0").hexdigest(), "1": hashlib.sha256(b"changed").hexdigest()}
    with collect(work, unchanged=same, taking=Taking(files=3)) as collection:
        assert [found.name for found in collection.found] == ["1", "2", "3"]


def test_the_same_content_under_another_name_is_a_result(work: Path) -> None:
    (work / "in").write_text("x")
    (work / "out").write_text("x")
    with collect(work, unchanged={"in": hashlib.sha256(b"x").hexdigest()}) as collection:
        assert [found.name for found in collection.found] == ["out"]


def test_hidden_files_and_folders_are_left(work: Path) -> None:
    for name in (".env", ".git/config", "a/.cache/x", "a/b"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    assert names(work) == ["a/b"]
    assert names(work, hidden=True) == [".env", ".git/config", "a/.cache/x", "a/b"]


def test_a_walk_has_an_end(work: Path) -> None:
    for number in range(50):
        (work / str(number)).write_text("")
    with collect(work, taking=Taking(entries=20)) as collection:
        assert "more than 20 files and folders" in collection.skipped[-1].reason
    deep = work
    for _ in range(40):
        deep /= "d"
        deep.mkdir()
    assert any("folders deep" in reason for reason in reasons(work).values())


def test_what_is_skipped_is_listed_to_a_bound(work: Path) -> None:
    for number in range(500):
        (work / f".{number}").write_text("")
    with collect(work) as collection:
        assert len(collection.skipped) == 201
        assert collection.skipped[-1].reason == "more than 200 are not taken; the others are not listed"


def test_a_descriptor_outlives_the_name(work: Path) -> None:
    (work / "file").write_text("content")
    with collect(work) as collection:
        number = collection.open(collection.found[0])
        (work / "file").unlink()
        assert os.read(number, 100) == b"content"
        os.close(number)


@pytest.mark.parametrize("swap", ["link", "other"])
def test_a_name_that_means_something_else_now_is_not_opened(work: Path, swap: str) -> None:
    (work / "folder").mkdir()
    (work / "folder" / "file").write_text("content")
    with collect(work) as collection:
        os.rename(work / "folder", work / "moved")
        if swap == "link":
            (work / "folder").symlink_to(work.parent)
            (work.parent / "file").write_text("content")
        else:
            (work / "folder").mkdir()
            (work / "folder" / "file").write_text("content")
        with pytest.raises(OSError, match=r"not the file|Not a directory|symbolic"):
            collection.open(collection.found[0])


def test_a_walk_that_follows_links_would_be_noticed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: without O_NOFOLLOW and lstat, the tests of links above fail."""
    from retinue.sandbox import collecting

    (work / "file").symlink_to(work.parent / "outside.txt")
    plain = os.stat

    def follow(path: object, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        return plain(path, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(collecting, "_FILE", os.O_RDONLY)
    monkeypatch.setattr("retinue.sandbox.collecting.os.stat", follow)
    assert names(work) == ["file"]


HOSTILE = ("a\nb", "a\x1b[2Jb", "a\x7f", "a\u0085", "a\u2028", "a\\b", " a", "a ", "a.", ".a", "a\udcff", "")


def test_hostile_names_are_not_taken(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HOSTILE[:-1]:
        (work / os.fsencode(name).decode("utf-8", "surrogateescape")).write_text("x")
    (work / ("d" * 200)).mkdir()
    (work / ("d" * 200) / ("f" * 100)).write_text("x")
    assert names(work) == []
    assert len(reasons(work)) == len(HOSTILE)
    # The planted bug: nobody looks at names.
    monkeypatch.setattr("retinue.sandbox.collecting._complaint", lambda *_: None)
    assert len(names(work)) == len(HOSTILE)


def test_names_that_are_shown_can_be_printed() -> None:
    assert shown("a\nb\x1b\udcff") == "a\\nb\\x1b\\udcff"
    assert len(shown("\n" * 1000)) == 255


def test_files_that_cannot_be_taken_are_not_read(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes take no disk: hashing thousands of files of 100 MB before refusing them kept a worker busy for hours."""
    for number in range(100):
        with open(work / f"f{number:03}", "wb") as file:
            file.truncate(1000)
    read: list[str] = []
    really = Collection.open

    def opened(collection: Collection, found: Found) -> int:
        read.append(found.name)
        return really(collection, found)

    monkeypatch.setattr(Collection, "open", opened)
    assert names(work, files=50, total_bytes=3_000) == ["f000", "f001", "f002"]
    assert read == ["f000", "f001", "f002"]
    assert reasons(work, files=50, total_bytes=3_000)["f099"] == "all files together have more than 3000 bytes"
