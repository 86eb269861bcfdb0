"""Which files are found: every one that can be read, each once, and what is left out with its reason."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffembed.errors import DataError
from diffembed.library.reading.walk import Found, NoSuchPath, find_files
from tests.library.reading.made_files import folder_of_nobody


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def names(found: Found, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found.files]


def reasons(found: Found) -> dict[str, str]:
    return {os.path.basename(each.path): each.reason for each in found.skipped}


def test_files_of_known_kinds_are_found_and_the_others_counted(tmp_path):
    make(tmp_path, "b.txt", "a/Z.MD", "a-b.rst", "a/deep/er/c.py", "rows.jsonl.gz", "x.png", "y.PNG", "a/Makefile")
    make(tmp_path, ".hidden.txt", ".git/a.txt", "__pycache__/a.py", "a/node_modules/a.md", "archive.tar.gz")
    found = find_files([tmp_path])
    assert names(found, tmp_path) == ["a/Z.MD", "a/deep/er/c.py", "a-b.rst", "b.txt", "rows.jsonl.gz"]
    assert list(found.files) == sorted(found.files)
    assert found.other_kinds == {"": 1, ".gz": 1, ".png": 2}
    assert found.skipped == ()
    assert found.roots == (tmp_path,)


def test_relative_paths_become_absolute_and_links_are_kept(tmp_path, monkeypatch):
    make(tmp_path, "real/a.txt")
    (tmp_path / "linked").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    found = find_files([Path("linked"), Path("linked/../linked")])
    assert found.files == (tmp_path / "linked" / "a.txt",)
    assert found.roots == (tmp_path / "linked",)


def test_above_a_link_is_where_the_system_goes(tmp_path, monkeypatch):
    make(tmp_path, "real/sub/x.txt", "real/notes/n.txt", "notes/n.txt")
    (tmp_path / "link").symlink_to("real/sub")
    (tmp_path / "real" / "other").symlink_to("notes")
    monkeypatch.chdir(tmp_path)
    found = find_files([Path("link/../notes"), Path("link/../other")])
    assert names(found, tmp_path) == ["real/notes/n.txt", "real/other/n.txt"]
    assert found.roots == (tmp_path / "real" / "notes", tmp_path / "real" / "other")
    assert find_files([tmp_path / "real"], leave_out=Path("link/../notes")).files == (tmp_path / "real/sub/x.txt",)


def test_paths_that_overlap_give_each_file_once(tmp_path):
    make(tmp_path, "a/b/c.txt", "a/b/d.bin", "a/e.bin")
    paths = [tmp_path / "a" / "b", tmp_path / "a", tmp_path / "a" / "e.bin", tmp_path / "a" / "b" / "c.txt"]
    for given in (paths, paths[::-1], paths * 2):
        found = find_files(given)
        assert names(found, tmp_path) == ["a/b/c.txt", "a/e.bin"]
        assert found.other_kinds == {".bin": 1}


def test_what_is_named_itself_is_taken_whatever_its_name(tmp_path):
    make(tmp_path, "Makefile", ".notes", ".config/a.txt", "__pycache__/b.txt", "queries.jsonl", "corpus.jsonl")
    given = [tmp_path / name for name in ("Makefile", ".notes", ".config", "__pycache__", "queries.jsonl")]
    assert names(find_files(given), tmp_path) == [
        ".config/a.txt",
        ".notes",
        "Makefile",
        "__pycache__/b.txt",
        "queries.jsonl",
    ]


@pytest.mark.parametrize("name", ["missing", "a.txt/below", "n" * 300, "zero\0byte"])
def test_a_path_that_is_not_there_is_refused(tmp_path, name):
    make(tmp_path, "a.txt")
    with pytest.raises(NoSuchPath, match="there is no") as caught:
        find_files([tmp_path, tmp_path / name])
    assert caught.value.path == str(tmp_path / name)


def test_links(tmp_path):
    make(tmp_path, "folder/a.txt", "elsewhere/b.txt")
    folder = tmp_path / "folder"
    (folder / "file.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "other.bin").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "dangling.txt").symlink_to(tmp_path / "nothing")
    (folder / "loop.txt").symlink_to(folder / "pool.txt")
    (folder / "pool.txt").symlink_to(folder / "loop.txt")
    found = find_files([folder])
    assert names(found, folder) == ["a.txt", "file.txt"]
    assert found.other_kinds == {".bin": 1}
    assert reasons(found) == {
        "up": "a link to a folder",
        "dangling.txt": "a link to nothing",
        "loop.txt": "a link that leads back to itself",
        "pool.txt": "a link that leads back to itself",
    }
    assert not any(each.is_for_now for each in found.skipped)
    assert reasons(find_files([folder / "dangling.txt"])) == {"dangling.txt": "a link to nothing"}


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("pipe.txt")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.txt"))  # the absolute path may be too long for a socket
        found = find_files([tmp_path, tmp_path / "pipe.txt"])
    assert found.files == ()
    assert reasons(found) == dict.fromkeys(("pipe.txt", "link.txt", "device.txt", "socket.txt"), "not a regular file")


def test_a_folder_without_permission_is_skipped_and_the_walk_goes_on():
    with folder_of_nobody() as folder:
        make(folder, "closed/a.txt", "open/b.txt")
        (folder / "open" / "in.txt").symlink_to(folder / "closed" / "a.txt")
        (folder / "closed").chmod(0)
        found = find_files([folder])
        with pytest.raises(DataError, match="no permission"):
            find_files([folder / "closed" / "a.txt"])
        (folder / "closed").chmod(stat.S_IRWXU)
    assert names(found, folder) == ["open/b.txt"]
    assert reasons(found) == {"closed": "no permission", "in.txt": "no permission"}
    assert all(each.is_for_now for each in found.skipped)


def test_names_that_are_not_utf8_are_skipped(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
        make(tmp_path, os.fsdecode(b"d\xff/a.txt"), "größe.txt")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = find_files([tmp_path])
    assert names(found, tmp_path) == ["größe.txt"]
    assert reasons(found) == {"caf\\xe9.txt": "its name is not UTF-8", "d\\xff": "its name is not UTF-8"}
    assert reasons(find_files([tmp_path / os.fsdecode(b"d\xff")])) == {"d\\xff": "its name is not UTF-8"}


def test_the_index_itself_is_never_read(tmp_path):
    make(tmp_path, "a.txt", "index/b.txt", "index/deep/c.txt", "index2/d.txt")
    (tmp_path / "alias").symlink_to("index")
    kept = ["a.txt", "index2/d.txt"]
    assert names(find_files([tmp_path], leave_out=tmp_path / "index"), tmp_path) == kept
    assert names(find_files([tmp_path], leave_out=tmp_path / "alias"), tmp_path) == kept
    assert names(find_files([tmp_path], leave_out=tmp_path / "later"), tmp_path) == [
        "a.txt",
        "index/b.txt",
        "index/deep/c.txt",
        "index2/d.txt",
    ]
    found = find_files([tmp_path / "index", tmp_path / "index" / "b.txt"], leave_out=tmp_path / "index")
    assert found.files == ()
    assert reasons(found) == dict.fromkeys(("index", "b.txt"), "part of the index itself")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_queries_of_a_task_are_no_documents(tmp_path, ending):
    make(tmp_path, f"task/corpus.jsonl{ending}", "task/queries.jsonl", "alone/queries.jsonl", "alone/more.jsonl")
    found = find_files([tmp_path])
    assert names(found, tmp_path) == ["alone/more.jsonl", "alone/queries.jsonl", f"task/corpus.jsonl{ending}"]
    assert reasons(found) == {"queries.jsonl": "the queries of a task, not documents"}


def test_kinds_that_a_file_system_does_not_tell(tmp_path, monkeypatch):
    """Then each is asked for by itself, which may fail for one of them."""
    make(tmp_path, "a.txt", "b.txt", "c/d.txt")
    real = os.scandir

    class Entry:
        def __init__(self, entry: os.DirEntry) -> None:
            self.name, self.path, self._entry = entry.name, entry.path, entry

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            if self.name == "b.txt":
                raise OSError(errno.EIO, "Input/output error")
            return self._entry.is_dir(follow_symlinks=follow_symlinks)

        def is_file(self, *, follow_symlinks: bool) -> bool:
            return self._entry.is_file(follow_symlinks=follow_symlinks)

    @contextmanager
    def listing(path: str) -> Iterator[list[Entry]]:
        with real(path) as entries:
            yield [Entry(entry) for entry in entries]

    monkeypatch.setattr(os, "scandir", listing)
    found = find_files([tmp_path])
    assert names(found, tmp_path) == ["a.txt", "c/d.txt"]
    assert [(each.reason, each.is_for_now) for each in found.skipped] == [("input/output error", True)]


def test_bare_roots(tmp_path):
    make(tmp_path, "full/a.txt", "deep/er/b.txt", "other/x.png", "odd/a.txt", "hidden/.b", "cache/__pycache__/x.py")
    (tmp_path / "odd" / "a.txt").unlink()
    (tmp_path / "odd" / "a.txt").symlink_to("nothing")
    (tmp_path / "empty" / "folders").mkdir(parents=True)
    (tmp_path / "link").symlink_to("nowhere")
    roots = sorted(tmp_path.iterdir())
    found = find_files([*roots, tmp_path / "full" / "a.txt"])
    assert [root.name for root in found.bare_roots] == ["cache", "empty", "hidden", "link"]
    assert find_files([tmp_path, tmp_path / "empty"]).bare_roots == (tmp_path / "empty",)


def test_no_paths_give_no_files():
    assert find_files([]) == Found(files=(), skipped=(), other_kinds={}, roots=())
