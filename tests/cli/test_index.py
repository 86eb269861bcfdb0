"""`diffembed index`: what it says, what it refuses, and that a refusal leaves everything as it was."""

import gzip
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from diffembed.cli import main
from diffembed.index.store import Store
from diffembed.index.writer import Writer
from diffembed.library.index import Index
from diffembed.library.update import index_files
from tests.library.conftest import CHUNK, TREE, contents, save_model, write
from tests.library.reading.made_files import pdf
from tests.tiny_embedders import SENTENCE

Shown = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "tree", TREE)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def made(tree: Path, to: Path, model: Path) -> Path:
    """An index of the tree."""
    index_files([tree], to, model=model, chunk_tokens=CHUNK)
    return to


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(args: list[str | Path], capsys: Shown, status: int) -> str:
    """The one error line of a command that ends so, and its hint."""
    assert main(["index", *map(str, args)]) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["error", "hint"]
    assert "Traceback" not in shown.err
    return shown.err


def run_alone(args: list[str | Path], **options) -> subprocess.Popen:
    # A shell that starts its jobs in the background has them, and what they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "diffembed", *map(str, args)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# What it says


def test_a_person_reads_what_was_done(tree: Path, to: Path, model: Path, capsys: Shown) -> None:
    write(tree, {"scan.txt": b"\0", "photo.jpg": b"x", "Makefile": b"all:"})
    assert main(["index", str(tree), "--to", str(to), "--model", str(model)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second, *rest = shown.err.splitlines()
    assert first.startswith("8 files read, 0 unchanged, 1 skipped, in ")
    assert second.startswith("10 documents, ") and "0 documents reused, 1 empty, 0 truncated, 1 longer" in second
    assert rest[0] == f"skipped {tree}/scan.txt: binary"
    assert rest[1] == "of other kinds, not read: 1 without suffix, 1 .jpg"
    assert rest[2].startswith(f"{to}: 8 files, 10 documents, ") and rest[2].endswith(" MB")
    assert len(rest) == 3
    (tree / "notes.txt").unlink()
    assert main(["index", str(tree), "--to", str(to)]) == 0
    assert capsys.readouterr().err.startswith("0 files read, 7 unchanged, 1 dropped, 1 skipped, in ")


def test_json_is_the_account(tree: Path, to: Path, model: Path, capsys: Shown) -> None:
    args = ["index", str(tree), "--to", str(to), "--model", str(model), "--chunk-tokens", "24", "--json"]
    assert main([*args, "--precision", "int8", "--plain"]) == 0
    account = json.loads(capsys.readouterr().out)
    with closing(Index.open(to)) as index:
        assert account["chunks"] == index.counts().chunks
        assert (index.settings.precision, index.settings.chunk_tokens, index.settings.contextual) == ("int8", 24, 0)
    assert (account["files_read"], account["documents"], account["empty"], account["skipped"]) == (8, 10, 1, [])
    assert main(args) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["files_read"], again["files_unchanged"], again["tokens"]) == (0, 8, 0)


def test_many_skipped_files_are_summed_up(tree: Path, to: Path, model: Path, capsys: Shown) -> None:
    write(tree, {f"bad/{n:02}.txt": b"\0" for n in range(30)} | {f"a/{n}/__init__.py": b"" for n in range(40)})
    args = ["index", str(tree), "--to", str(to), "--model", str(model)]
    for _ in range(2):  # what was not read again is named again
        assert main(args) == 0
        lines = capsys.readouterr().err.splitlines()
        assert "70 skipped" in lines[0]
        assert [line for line in lines if line.startswith("skipped /")] == [
            f"skipped {tree}/bad/{n:02}.txt: binary" for n in range(20)
        ]
        assert "skipped 10 more (--json names them all): 10 binary" in lines
        places = [f"{tree}/a/{n}/__init__.py" for n in ("0", "1", "10")]
        assert f"skipped 40 without text: {', '.join(places)}, ..." in lines


def test_a_disk_without_room_to_tidy_up_is_told_of(
    made: Path, tree: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was indexed is there all the same."""
    write(tree, {"new.txt": b"a new file"})
    monkeypatch.setattr(Writer, "compact_if_due", lambda writer: writer.commit() is not None)
    assert main(["index", str(tree), "--to", str(made)]) == 0
    assert "the disk has no room to write the vectors anew" in capsys.readouterr().err
    with Index.open(made) as index:
        assert index.counts().files == 9


def test_a_name_gives_the_terminal_no_orders(tmp_path: Path, model: Path, capsys: Shown) -> None:
    tree = write(tmp_path / "tree\x1b]0;owned\x07", {"good.txt": b"good", "bad\x1b[2J\n.txt": b"\0", "x.\x1b[1m": b""})
    for args in ([tree, "--to", tree / "index", "--model", model], [tree / "no", "--to", tree / "index"]):
        main(["index", *map(str, args)])
        shown = capsys.readouterr().err
        assert "owned" in shown and all(character.isprintable() or character == "\n" for character in shown)


@pytest.mark.parametrize("phase", ["looking", "reading"])
def test_progress_without_a_terminal(
    tree: Path, to: Path, model: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setattr("diffembed.cli.index.PLAIN_S", -1.0)
    monkeypatch.setattr("diffembed.library.plan.TOLD_S", -1.0)
    assert main(["index", str(tree), "--to", str(to), "--model", str(model)]) == 0
    lines = capsys.readouterr().err.splitlines()
    looking = [line for line in lines if line.startswith("looking at ")]
    if phase == "looking":
        assert len(looking) == 8 and looking == lines[:8]
        assert re.fullmatch(r"looking at 8 files, 0%, 0:00:00 left", looking[0])
        assert re.fullmatch(r"looking at 8 files, 88%, 0:00:\d\d left", looking[-1])
    else:
        told = [re.fullmatch(r"(\d+) documents, [\d,]+ tokens/s, (\d+)%, 0:0\d:\d\d left", line) for line in lines]
        found = [(int(each[1]), int(each[2])) for each in told if each]
        assert found == sorted(found) and {count for count, _ in found} == set(range(11)) and found[-1] == (10, 100)


def test_remove(made: Path, tree: Path, capsys: Shown) -> None:
    args = ["index", "--remove", "--to", str(made), "--json"]
    before = on_disk(made)
    for option in ([], ["--remove"]):
        status = main(["index", "--to", str(made), *option, ""])
        assert (status, "'' is no path" in capsys.readouterr().err) == (2, True)
    for paths in ([tree / "nowhere.txt"], [tree / "deep", tree / "dee"], [tree / "notes.txt" / "below"]):
        message = refused([*args[1:], *paths], capsys, 1)
        assert f"nothing of {paths[-1]} is in the index" in message and "nothing was removed" in message
    assert on_disk(made) == before
    assert main([*args, str(tree / "deep"), str(tree / "notes.txt")]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 4}
    with closing(Index.open(made)) as index:
        assert index.counts().files == 4


def test_a_moved_folder_is_told_of(made: Path, tree: Path, capsys: Shown) -> None:
    """What the index holds of its old place is still found there."""
    moved = tree.rename(tree.with_name("moved"))
    assert main(["index", str(moved), "--to", str(made)]) == 0
    said = capsys.readouterr().err
    assert f"{tree} isn't there any more, and 8 files of it are still found: " in said
    assert f"`--remove {tree}` takes them out" in said


def test_verify(made: Path, capsys: Shown) -> None:
    before = on_disk(made)
    assert main(["index", "--verify", "--to", str(made), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"problems": []}
    assert shown.err.startswith(f"sound: {made}: 8 files, ")
    assert on_disk(made) == before
    (shard,) = (made / "vectors").iterdir()
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert "not as they were written" in refused(["--verify", "--to", made], capsys, 1)
    assert main(["index", "--verify", "--to", str(made), "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 2  # the file, and the document whose vectors are in that place
    shard.unlink()
    assert "is missing" in refused(["--verify", "--to", made], capsys, 1)


@pytest.mark.parametrize("with_pdf", [False, pytest.param(True, marks=pytest.mark.extra)])
def test_whatever_lies_in_a_folder_the_run_goes_on(
    tmp_path: Path, model: Path, to: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch, with_pdf: bool
) -> None:
    tree = write(
        tmp_path / "tree",
        {
            "good.txt": b"the one good file",
            "binary.txt": b"\x7fELF\0\0",
            "latin.md": "caf\xe9 au lait".encode("latin-1"),
            "cut.jsonl": b'{"_id": "a", "text": "x"}\n{"_id": ',
            "bomb.jsonl.gz": gzip.compress(bytes(70_000_000), 1),
            "empty.py": b"",
        },
    )
    (tree / "huge.log.txt").touch()
    os.truncate(tree / "huge.log.txt", 1 << 30)
    os.mkfifo(tree / "pipe.txt")
    (tree / "loop.txt").symlink_to("pool.txt")
    (tree / "pool.txt").symlink_to("loop.txt")
    (tree / "round").symlink_to(".")
    reasons = {
        "binary.txt": "binary",
        "latin.md": "not UTF-8 text (bad byte at offset 3)",
        "cut.jsonl": "line 2 is not JSON: ",
        "bomb.jsonl.gz": "line 1 is longer than 16 MB",
        "empty.py": "no text in it",
        "huge.log.txt": "over 64 MB",
        "pipe.txt": "not a regular file",
        "loop.txt": "a link that leads back to itself",
        "pool.txt": "a link that leads back to itself",
        "round": "a link to a folder",
    }
    if with_pdf:
        import pypdf

        writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(["a secret"])))
        writer.encrypt("password", algorithm="AES-256")
        writer.write(tree / "locked.pdf")
        (tree / "broken.pdf").write_bytes(pdf(["cut short"])[:200])
        reasons |= {"locked.pdf": "encrypted PDF", "broken.pdf": "broken PDF: "}
    if os.geteuid():  # no file is closed to root
        (write(tree, {"closed.txt": b"x"}) / "closed.txt").chmod(0)
        reasons["closed.txt"] = "no permission"
    for _ in range(2):
        assert main(["index", str(tree), "--to", str(to), "--model", str(model), "--json"]) == 0
        shown = capsys.readouterr()
        account = json.loads(shown.out)
        skipped = {os.path.relpath(each["path"], tree): each["reason"] for each in account["skipped"]}
        assert set(skipped) == set(reasons)
        assert [name for name, reason in reasons.items() if not skipped[name].startswith(reason)] == []
        assert all(str(tree / name) in shown.err for name in reasons)
        assert account["files_read"] + account["files_unchanged"] == 1
    assert main(["search", str(to), "good", "--json"]) == 0
    assert [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()] == [str(tree / "good.txt")]


# Refusals


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["{tree}"], 2, "no index to write to"),
        (["--to", "{to}"], 2, "no path to index"),
        (["{tree}/nowhere", "--to", "{to}"], 1, "there is no "),
        (["{tree}", "{tree}/nowhere", "--to", "{to}"], 1, "nothing was read"),
        (["{empty}", "--to", "{to}"], 1, "there is no document in"),
        (["{unreadable}", "--to", "{to}"], 1, "nothing in"),
        (["{unreadable}/a.txt", "--to", "{to}"], 1, "a.txt: binary"),
        (["{tree}", "--to", "{tree}/notes.txt"], 1, "is a file"),
        (["{tree}", "--to", "{tree}"], 1, "belongs to no index"),
        (["{tree}", "--to", "{tree}/notes.txt/index"], 1, "Not a directory"),
        (["{tree}", "--to", "{to}", "--model", "{tree}/nowhere"], 1, "there is no model folder"),
        (["{tree}", "--to", "{to}", "--model", "{tree}"], 1, "config.json"),
        (["{tree}", "--to", "{to}", "--model", ""], 2, "no model can be named ''"),
        (["{tree}", "--to", "{to}", "--chunk-tokens", "4"], 2, "chunk_tokens is 4"),
        (["{tree}", "--to", "{to}", "--chunk-tokens", "many"], 2, "--chunk-tokens"),
        (["{tree}", "--to", "{to}", "--precision", "float8"], 2, "--precision"),
        (["{tree}", "--to", "{to}", "--verify"], 2, "--verify takes no path"),
        (["--to", "{to}", "--verify"], 1, "there is no index in"),
        (["{tree}", "--to", "{to}", "--remove"], 1, "there is no index in"),
        (["--to", "{to}", "--remove"], 2, "no path"),
        (["{tree}", "--to", "{to}", "--remove", "--verify"], 2, "--verify doesn't go together with --remove"),
        (["--to", "{to}", "--verify", "--model", "{tree}"], 2, "--model doesn't go together with --verify"),
        (["{tree}", "--to", "{to}", "--remove", "--model", "m"], 2, "leave --model out"),
        (["{tree}", "--to", "{to}", "--remove", "--precision", "int8"], 2, "leave --precision out"),
        (["--to", "{to}", "--verify", "--chunk-tokens", "64"], 2, "leave --chunk-tokens out"),
        (["--to", "{to}", "--verify", "--plain"], 2, "leave --contextual/--plain out"),
        (["{tree}", "--to", "{to}", "--remove", "--contextual"], 2, "leave --contextual/--plain out"),
    ],
)
def test_bad_input(
    args: list[str], status: int, message: str, tmp_path: Path, tree: Path, to: Path, model: Path, capsys: Shown
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "unreadable", {"a.txt": b"\0", "b.md": b"\xff\xff\xfe"})
    before = on_disk(tmp_path)
    names = {name: tmp_path / name for name in ("tree", "empty", "unreadable")} | {"to": to}
    with_model = [] if {"--model", "--verify", "--remove"} & set(args) else ["--model", str(model)]
    assert message in refused([*(arg.format(**names) for arg in args), *with_model], capsys, status)
    assert not to.exists()
    assert on_disk(tmp_path) == before


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--precision", "int8"], 2, "made with precision float16, not int8"),
        (["--chunk-tokens", "4"], 2, f"made with chunk_tokens {CHUNK}, not 4"),
        (["--plain"], 2, "made with contextual True, not False"),
        (["--model", "{other}"], 1, "another model"),
    ],
)
def test_what_an_index_was_not_made_with(
    args: list[str], status: int, message: str, made: Path, tree: Path, tmp_path: Path, capsys: Shown
) -> None:
    other = save_model(tmp_path / "other", max_tokens=200)
    write(tree, {"notes.txt": b"changed"})
    before = on_disk(made)
    assert message in refused([tree, "--to", made, *(arg.format(other=other) for arg in args)], capsys, status)
    assert on_disk(made) == before


def test_the_model_of_an_index_is_gone(tree: Path, to: Path, model: Path, tmp_path: Path, capsys: Shown) -> None:
    own = tmp_path / "own"
    shutil.copytree(model, own)
    index_files([tree], to, model=own)
    shutil.rmtree(own)
    write(tree, {"notes.txt": b"changed"})
    before = on_disk(to)
    assert "the model of the index can't be found" in refused([tree, "--to", to], capsys, 1)
    assert on_disk(to) == before


@pytest.mark.parametrize("damage", [b"", b"no database at all", None])
def test_a_damaged_index(made: Path, tree: Path, capsys: Shown, damage: bytes | None) -> None:
    path = made / "index.sqlite"
    path.write_bytes(path.read_bytes()[:5000] if damage is None else damage)
    files = on_disk(tree)
    if damage == b"":  # as if its maker had been killed before it began
        assert "was never finished" in refused(["--verify", "--to", made], capsys, 1)
    else:
        assert "damaged" in refused([tree, "--to", made], capsys, 1)
        assert "damaged" in refused(["--verify", "--to", made], capsys, 1)
    assert on_disk(tree) == files


def test_a_second_indexer(made: Path, tree: Path, capsys: Shown) -> None:
    write(tree, {"notes.txt": b"changed"})
    with closing(Store.open(made)) as store, store.writing():
        message = refused([tree, "--to", made], capsys, 1)
        assert f"another process (number {os.getpid()}) is writing" in message and "wait until it is done" in message
        assert "another process" in refused([tree, "--to", made, "--remove"], capsys, 1)
    assert main(["index", str(tree), "--to", str(made)]) == 0


# In a process of its own


@pytest.mark.slow
def test_a_full_disk(made: Path, tree: Path, capsys: Shown) -> None:
    with closing(Index.open(made)) as index:
        before = contents(index)
    # The vectors fit, the text does not.
    room = 40_000
    write(tree, {"notes.txt": f"{SENTENCE} word\n".encode() * (room // len(SENTENCE)), "guide.md": None})
    process = run_alone(
        ["index", tree, "--to", made],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    _, talk = process.communicate()
    assert process.returncode == 1
    error, hint = talk.splitlines()
    assert error.startswith("error: cannot ") and f"the index in {made}: " in error and hint.startswith("hint: ")
    with closing(Index.open(made)) as index:
        assert index.check() == []
        assert contents(index) == before
        assert index.search("copies", mode="lexical")[0].path.endswith("guide.md")
    assert main(["index", str(tree), "--to", str(made)]) == 0
    with closing(Index.open(made)) as index:
        assert index.check() == []
        assert index.search("word", mode="lexical") and not index.search("copies", mode="lexical")


@pytest.mark.slow
def test_ctrl_c(tree: Path, to: Path, model: Path, capsys: Shown) -> None:
    write(tree, {f"many/{n}.txt": f"{n} {TREE['deep/long.txt'].decode()}".encode() for n in range(150)})
    process = run_alone(["index", tree, "--to", to, "--model", model])
    deadline = time.monotonic() + 60
    while not Store.is_begun(to):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate()
    assert (process.returncode, talk.splitlines()) == (130, ["interrupted"])
    with closing(Index.open(to)) as index:
        assert index.check() == []
        assert index.counts().files < 150
    assert main(["index", str(tree), "--to", str(to)]) == 0
    with closing(Index.open(to)) as index:
        assert index.check() == []
        assert index.counts().files == 150 + len(TREE)


def test_what_needs_no_model_brings_no_torch(made: Path, tree: Path) -> None:
    commands = [
        ["index", "--help"],
        ["index", tree, "--to", made],
        ["index", tree, "--to", made, "--json"],
        ["index", tree / "nowhere", "--to", made],
        ["index", tree, "--to", made, "--precision", "int8"],
        ["index", tree, "--to", tree],
        ["index", tree, "--to", made.with_name("new"), "--chunk-tokens", "4"],
        ["index", tree, "--to", made.with_name("new"), "--model", tree],
        ["index", "--remove", tree / "nowhere", "--to", made],
        ["index", "--verify", "--to", made],
        ["index", "--remove", tree / "notes.txt", "--to", made],
    ]
    code = (
        "import json, sys; from diffembed import hardware; from diffembed.cli import main\n"
        "loaded = []; hardware.limit_blas_threads = lambda: loaded.append('numpy' in sys.modules)\n"
        "statuses = [main(args) for args in json.loads(sys.argv[1])]\n"
        "print(json.dumps([statuses, 'torch' in sys.modules, loaded[0]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands, default=str)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0, 0, 1, 2, 1, 2, 1, 1, 0, 0], False, False]
