"""Files into an index: what is read, reused, dropped and left alone, and that an account is given of it."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed import Embedder
from diffembed.errors import CheckpointError, ConfigError, DataError, IndexFormatError
from diffembed.index import writer
from diffembed.library import indexing, plan
from diffembed.library.account import Account
from diffembed.library.index import Index
from diffembed.library.model import CHUNK_TOKENS
from diffembed.library.reading.read import is_rows, read_document
from diffembed.library.reading.rows import Rows
from diffembed.library.update import index_files
from tests.examples import examples
from tests.library.conftest import (
    CHUNK,
    ROWS,
    TREE,
    Contents,
    contents,
    contents_of,
    expected,
    names,
    rows,
    save_model,
    write,
)
from tests.tiny_embedders import SENTENCE, make

Bring = Callable[..., Account]


# What comes in


@pytest.mark.parametrize("contextual", [True, False])
def test_chunks_and_vectors_are_those_of_the_embedder(bring, tree, to, embedder, contextual) -> None:
    bring(contextual=contextual)
    assert contents_of(to) == expected(tree, embedder, contextual=contextual)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_other_precisions_hold_the_same_chunks(bring, tree, to, embedder, precision) -> None:
    bring(precision=precision)
    found = contents_of(to)
    wanted = expected(tree, embedder)
    assert [row[:4] for row in found] == [row[:4] for row in wanted]
    vectors = [np.frombuffer(b"".join(row[4] for row in each), np.float32) for each in (found, wanted)]
    assert np.abs(vectors[0] - vectors[1]).max() < (1e-3 if precision == "float32" else 1e-9)  # int8 keeps float16


def test_the_account_counts_everything(bring, tree, to, embedder) -> None:
    (tree / "picture.png").write_bytes(b"\x89PNG")
    (tree / "broken.txt").write_bytes(b"\0\1\2")
    account = bring()
    documents = []
    for path in (tree / name for name in TREE):
        documents += Rows(path) if is_rows(path) else [read_document(path, path.read_bytes())]
    reports = [embedder.embed_chunks(each.text, CHUNK, headings=each.headings).report for each in documents]
    assert account.files_read == len(TREE) and account.files_unchanged == 0 and account.files_dropped == 0
    assert account.documents == len(documents) and account.empty == 1
    assert account.chunks == len(contents_of(to))
    assert account.tokens == sum(report.tokens for report in reports)
    assert account.windowed == sum(report.windowed for report in reports) == 1
    assert account.reused == 0 and account.truncated == 0
    assert account.other_kinds == {".png": 1}
    assert [(each.path, each.reason) for each in account.skipped] == [(str(tree / "broken.txt"), "binary")]
    assert account.bytes_done == account.bytes_total == sum(map(len, TREE.values())) + len(b"\0\1\2")
    assert account.facts()["skipped"] == [{"path": str(tree / "broken.txt"), "reason": "binary"}]


def test_a_copy_is_not_embedded_again(bring, tree, to, embedder) -> None:
    bring()
    shutil.copy(tree / "notes.txt", tree / "deep" / "copy.txt")
    account = bring()
    assert (account.documents, account.reused, account.tokens) == (1, 1, 0)
    assert contents_of(to) == expected(tree, embedder)


def test_a_file_of_any_name_that_is_named_itself(bring, tree, to) -> None:
    log = tree / "events.log"
    log.write_text("the server fell over")
    hidden = tree / ".hidden"
    hidden.write_text("a secret")
    bring(log, hidden)
    assert names(to) == {"events.log", ".hidden"}
    account = bring()  # its folder does not list it; it is there all the same
    assert names(to) >= {"events.log", ".hidden", "notes.txt"}
    assert account.files_unchanged == 2 and account.files_dropped == 0
    log.write_text("the server stands again")
    hidden.unlink()
    account = bring()
    assert (account.files_read, account.files_dropped) == (1, 1)
    assert ".hidden" not in names(to)
    with closing(Index.open(to)) as index:
        assert "again" in index.search("server", mode="lexical")[0].text


def test_roots_may_overlap(bring, tree, to) -> None:
    account = bring(tree, tree / "deep", tree / "deep" / "long.txt", tree)
    assert account.files_read == len(TREE)
    assert bring(tree / "deep", tree).files_unchanged == len(TREE)


def test_the_index_may_lie_in_the_folder(tree, embedder, monkeypatch) -> None:
    monkeypatch.chdir(tree)
    account = index_files(["."], "deep/index", model=embedder, chunk_tokens=CHUNK)
    assert account.files_read == len(TREE)
    again = index_files([Path("..") / "tree"], tree / "deep" / "index")
    assert again.files_unchanged == len(TREE)
    assert not again.other_kinds and not again.skipped
    assert {row[0] for row in contents_of(tree / "deep" / "index")} <= {str(tree / name) for name in TREE}


# What is there already


def on_disk(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_unchanged_files_write_nothing_and_need_no_model(tree, to, model, tmp_path) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    index_files([tree], to, model=own, chunk_tokens=CHUNK)
    before = on_disk(to)
    assert len(before) == 3 and {"index.sqlite", "lock"} < set(before)
    shutil.rmtree(own)
    for path in tree.rglob("*.txt"):
        os.utime(path, (1, 1))
    account = index_files([tree], to)
    assert (account.files_unchanged, account.files_read, account.documents) == (len(TREE), 0, 0)
    assert on_disk(to) == before


def test_a_changed_file_is_embedded_alone(bring, tree, to, embedder) -> None:
    bring()
    write(tree, {"guide.md": b"# Other\n\nAll is new here.\n"})
    account = bring()
    assert (account.files_read, account.files_unchanged, account.documents) == (1, len(TREE) - 1, 1)
    assert account.tokens == embedder.embed_chunks("# Other\n\nAll is new here.\n", CHUNK).report.tokens
    assert contents_of(to) == expected(tree, embedder)


def test_what_moved_is_not_embedded_again(bring, tree, to, embedder) -> None:
    documents = bring().documents
    (tree / "deep").rename(tree / "sea")
    (tree / "notes.txt").rename(tree / "remarks.txt")
    (tree / "rows.jsonl").rename(tree / "lines.jsonl")
    account = bring()
    assert (account.tokens, account.model_seconds) == (0, 0)
    assert account.files_read == account.files_dropped == 5
    assert account.reused == account.documents - 1 == documents - 3 - 1  # but for the row without text
    assert contents_of(to) == expected(tree, embedder)


@pytest.mark.parametrize("gone", ["notes.txt", "deep"])
def test_what_is_gone_is_dropped(bring, tree, to, embedder, gone) -> None:
    bring()
    if gone == "notes.txt":
        (tree / gone).unlink()
    else:
        shutil.rmtree(tree / gone)
    left = sum(path.is_file() for path in tree.rglob("*"))
    account = bring()
    assert (account.files_dropped, account.files_unchanged, account.tokens) == (len(TREE) - left, left, 0)
    assert contents_of(to) == expected(tree, embedder)


def test_a_root_that_is_gone_is_an_error_that_drops_nothing(bring, tree, to) -> None:
    bring()
    before = contents_of(to)
    tree.rename(tree.with_name("elsewhere"))
    with pytest.raises(
        DataError, match=f"there is no .*tree, and the index holds {len(TREE)} files.*\n.*--remove {tree}"
    ):
        bring(tree)
    with pytest.raises(DataError, match="check the path; nothing was read"):
        bring(tree.with_name("never there"))
    assert contents_of(to) == before


@pytest.mark.parametrize("is_link", [False, True])
def test_a_root_that_is_bare_is_an_error_that_drops_nothing(bring, tree, to, is_link) -> None:
    """As a mount point is whose disk isn't there, or a link to one."""
    bring()
    before = contents_of(to)
    tree.rename(tree.with_name("elsewhere"))
    if is_link:
        tree.symlink_to("nowhere")
    else:
        (tree / "deep").mkdir(parents=True)
    with pytest.raises(
        DataError, match=f"nothing is left below {tree}, the index holds {len(TREE)} files.*\n.*--remove"
    ):
        bring(tree)
    assert contents_of(to) == before
    if not is_link:  # whoever put something else there has seen the folder
        (tree / "photo.png").write_bytes(b"x")
        assert bring(tree).files_dropped == len(TREE)


def test_paths_outside_the_roots_are_left_alone(bring, tree, to, tmp_path) -> None:
    other = write(tmp_path / "tree-two", {"x.txt": b"another tree"})  # its name begins like the other's
    bring(tree, other)
    shutil.rmtree(other)
    (tree / "deep" / "long.txt").unlink()
    account = bring(tree / "deep")
    assert account.files_dropped == 1
    assert names(to) >= {"x.txt", "notes.txt"}
    assert bring(tree).files_dropped == 0


def test_what_is_gone_from_elsewhere_stays_and_is_counted(bring, tree, to, tmp_path) -> None:
    """As the files of a project whose folder has another name now."""
    old = write(tmp_path / "old" / "project", {"docs/a.txt": b"old", "docs/deep/b.txt": b"b", "c.txt": b"c"})
    kept = write(tmp_path / "kept", {"a.txt": b"gone", "b.txt": b"still there", "c.txt": b"c"})
    account = bring(old, kept)
    assert account.gone_elsewhere == bring(tree).gone_elsewhere == {}
    old.parent.rename(tmp_path / "new")
    (kept / "a.txt").unlink()
    before = names(to)
    account = bring(tree)
    gone = {str(tmp_path / "old"): 3, str(kept / "a.txt"): 1}
    assert account.gone_elsewhere == account.facts()["gone_elsewhere"] == gone
    assert account.files_dropped == 0 and names(to) == before
    with closing(Index.open(to)) as index:
        assert index.remove(paths=list(gone), must_exist=True) == 4
    assert bring(tree).gone_elsewhere == {}


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("notes.txt", b"\0\1", "binary"),
        ("notes.txt", b"\xff\xfa", "not UTF-8"),
        ("notes.txt", b" \n", "no text in it"),
        ("rows.jsonl", b"", "no row in it"),
        ("rows.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("deep/er/more.jsonl.gz", TREE["deep/er/more.jsonl.gz"][:-9], "damaged after line"),
        ("notes.txt", None, "a link to nothing"),
    ],
)
def test_a_file_that_can_not_be_read_any_more_is_dropped_and_named(bring, tree, to, name, data, reason) -> None:
    bring()
    write(tree, {name: data})
    if data is None:
        (tree / name).symlink_to("nowhere")
    account = bring()
    assert [each.path for each in account.skipped] == [str(tree / name)]
    assert reason in account.skipped[0].reason
    assert str(tree) not in account.skipped[0].reason
    assert (account.files_dropped, account.files_unchanged) == (1, len(TREE) - 1)
    assert str(tree / name) not in {row[0] for row in contents_of(to)}
    assert bring().files_dropped == 0


# Refusals: nothing is changed, and nothing is left behind


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no document in"),
        ({"a.png": b"x", "b.zip": b"x"}, r"only \.png, \.zip"),
        ({"a.txt": b"\0", "b.jsonl": b"{"}, r"could be read: .*a\.txt: binary; .*b\.jsonl: line 1 is not JSON"),
    ],
)
def test_nothing_to_read(to, tmp_path, embedder, files, message) -> None:
    tree = write(tmp_path / "tree", files)
    tree.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message):
        index_files([tree], to, model=embedder, chunk_tokens=CHUNK)
    assert not to.exists()
    index_files([write(tmp_path / "good", {"a.txt": b"good"})], to, model=embedder, chunk_tokens=CHUNK)
    with pytest.raises(DataError, match=message):
        index_files([tree], to)
    assert names(to) == {"a.txt"}


def test_settings_of_an_index_are_fixed(bring, to, tmp_path, embedder) -> None:
    bring()
    before = on_disk(to)
    for setting, message in [
        ({"precision": "int8"}, "precision float16, not int8"),
        ({"chunk_tokens": 64}, f"chunk_tokens {CHUNK}, not 64"),
        ({"contextual": False}, "contextual True, not False"),
    ]:
        with pytest.raises(ConfigError, match=message):
            bring(**setting)
    bring(precision="float16", chunk_tokens=CHUNK, contextual=True)
    assert on_disk(to) == before


@pytest.mark.parametrize("setting", [{"chunk_tokens": 4}, {"chunk_tokens": 300}, {"precision": "float8"}])
def test_settings_that_are_none(tree, to, embedder, setting) -> None:
    with pytest.raises(ConfigError, match="allowed: "):
        index_files([tree], to, model=embedder, **setting)
    assert not to.exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunk_tokens": 4}, ConfigError),
        ({"precision": "float8"}, ConfigError),
        ({"model": "{tree}"}, CheckpointError),
    ],
)
def test_what_can_be_refused_at_once_is_refused_before_a_file_is_read(tree, to, monkeypatch, options, error) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(plan, "digest", refuse)
    options = {name: tree if value == "{tree}" else value for name, value in options.items()}
    with pytest.raises(error):
        index_files([tree], to, **options)
    with pytest.raises(error):
        Index.create(to, **options)
    assert not to.exists()


@pytest.mark.parametrize("paths", ["notes", b"notes", Path("notes")])
def test_a_single_path_is_no_list(to, tmp_path, monkeypatch, paths) -> None:
    write(tmp_path, {name: b"x" for name in "notes"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"paths takes a list, got .*notes.*\n.*paths=\["):
        index_files(paths, to)
    assert not to.exists()


def test_models_that_can_not_be_found_again(tree, to, model) -> None:
    with pytest.raises(ConfigError, match="in no folder"):
        index_files([tree], to, model=make())
    with pytest.raises(ConfigError, match="looks forward, but the model in its folder both"):
        index_files([tree], to, model=Embedder.load(model, direction="forward"))
    with pytest.raises(CheckpointError, match="no model folder"):
        index_files([tree], to, model=model / "none")
    with pytest.raises(ConfigError, match="no path"):
        index_files([], to, model=model)
    assert not to.exists()


def test_another_model_is_refused(bring, tree, to, tmp_path) -> None:
    bring()
    other = save_model(tmp_path / "other", max_tokens=200)
    before = on_disk(to)
    with pytest.raises(IndexFormatError, match="another model"):
        index_files([tree], to, model=other)
    assert on_disk(to) == before


def test_two_at_once(bring, tree, to) -> None:
    """The second says so; whoever searches meanwhile is answered, with what was there before."""
    bring(tree / "notes.txt")
    outside, answers, refusals = Index.open(to), [], []

    def meanwhile(account: Account) -> None:
        if not account.documents:
            return  # nobody writes while files are only looked at
        answers.append({Path(hit.path).name for hit in outside.search("cat", mode="dense", k=100)})
        with closing(Index.open(to)) as another:
            answers.append({Path(hit.path).name for hit in another.search("cat", mode="lexical")})
        with pytest.raises(DataError, match=f"another process .number {os.getpid()}. is writing") as refusal:
            bring(tree / "paper.rst")
        refusals.append(refusal)

    bring(on_progress=meanwhile)
    assert len(refusals) >= len(TREE) - 1 and len(outside.ids(tree / "rows.jsonl")) == 3
    assert answers == [{"notes.txt"}] * len(answers)
    assert len({hit.path for hit in outside.search("cat", mode="dense", k=100)}) == len(TREE)
    outside.close()


# In any order

TEXTS = [b"one cat", SENTENCE.encode(), b"cat\n\n" + SENTENCE.encode() * 3, b"\0binary", None]
POOLS: dict[str, list[bytes | None]] = {
    "a.txt": TEXTS,
    "b/c.txt": TEXTS,
    "b/d.md": [b"# cat\n\nA\n\n# dog\n\n" + SENTENCE.encode() * 2, TEXTS[0], None],
    "e.jsonl": [rows(*ROWS[:2]), rows(*ROWS[1:3]), rows({"_id": "row 1", "text": "one cat"}), b"{", b"", None],
}
CHANGES = st.dictionaries(st.sampled_from(sorted(POOLS)), st.integers(0, 5), min_size=1)


@examples(25)
@given(
    steps=st.lists(CHANGES, min_size=1, max_size=4),
    commit_s=st.sampled_from([-1.0, 10.0]),
    together=st.sampled_from([1, 3, 99]),
)
def test_an_index_depends_on_the_files_alone(tmp_path_factory, embedder, steps, commit_s, together) -> None:
    """Built at once or in any steps, with moves, reuse and compactions between: the same to the byte."""
    tmp_path = tmp_path_factory.mktemp("steps")
    tree = write(tmp_path / "tree", {"z.png": b"so that the folder is never bare"})

    def bring(to: str) -> Contents:
        try:
            index_files([tree], tmp_path / to, model=embedder, chunk_tokens=CHUNK)
        except DataError as error:
            assert "there is no document" in error.message or "could be read" in error.message
        return contents_of(tmp_path / to) if (tmp_path / to).exists() else []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "COMMIT_S", commit_s)
        patch.setattr(indexing, "TOGETHER", together)
        patch.setattr(writer, "LEAST_COMPACTED", 2)
        for changes in steps:
            write(tree, {name: POOLS[name][number % len(POOLS[name])] for name, number in changes.items()})
            found = bring("steps")
    assert found == bring("once")
    if found:
        assert words_found(tmp_path / "steps") == words_found(tmp_path / "once")
    shutil.rmtree(tmp_path)


def words_found(folder: Path) -> list[tuple]:
    with closing(Index.open(folder)) as index:
        hits = [hit for word in ("cat", "wizards", "row") for hit in index.search(word, 99, "lexical", details=False)]
    return sorted((hit.path, hit.id, hit.start, hit.text, hit.title, round(hit.score, 6)) for hit in hits)


def test_an_open_index_sees_what_came_in(bring, tree, to, embedder) -> None:
    bring()
    with closing(Index.open(to, model=embedder)) as index:
        write(tree, {"guide.md": None, "new.txt": b"brand new"})
        account = bring()
        assert (account.files_read, account.files_dropped) == (1, 1)
        assert contents(index) == expected(tree, embedder)


def test_a_model_for_short_texts_gets_chunks_that_it_can_read(tree, to, tmp_path) -> None:
    embedder = make()
    embedder.save(tmp_path / "short")
    index_files([tree], to, model=tmp_path / "short")
    with closing(Index.open(to)) as index:
        assert index.settings.chunk_tokens == embedder.document_tokens < CHUNK_TOKENS
    assert [row[:4] for row in contents_of(to)] == [
        row[:4] for row in expected(tree, embedder, chunk_tokens=embedder.document_tokens)
    ]
