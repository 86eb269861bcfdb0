"""An index as a library: what a search finds, and documents that come from no file."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffembed import Embedder
from diffembed.errors import CheckpointError, ConfigError, DataError, IndexFormatError
from diffembed.index import fusion
from diffembed.index.hits import NO_ROW, Hits
from diffembed.index.snapshot import Snapshot
from diffembed.library.hits import Hit
from diffembed.library.index import MODES, Index
from diffembed.library.reading.document import Document
from diffembed.library.reading.read import is_rows, read_document
from diffembed.library.reading.rows import Rows
from diffembed.library.update import index_files
from tests.library.conftest import CHUNK, TREE, contents, save_model, write
from tests.tiny_embedders import SENTENCE, WORDS

QUERY = "wizards judge a cat"
ALL = 10_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("library") / "tree", TREE)


@pytest.fixture(scope="module")
def folder(tree: Path, embedder: Embedder) -> Path:
    index_files([tree], tree.with_name("index"), model=embedder, chunk_tokens=CHUNK)
    return tree.with_name("index")


@pytest.fixture
def index(folder: Path) -> Iterator[Index]:
    with closing(Index.open(folder)) as opened:
        yield opened


@pytest.fixture
def notes(tmp_path: Path, embedder: Embedder) -> Iterator[Index]:
    """Empty, for documents that come from no file."""
    with closing(Index.create(tmp_path / "notes", model=embedder, chunk_tokens=CHUNK)) as opened:
        yield opened


Place = tuple[str, str, int]


def place(hit: Hit) -> Place:
    return hit.path, hit.id, hit.start


def assert_same(found: list[list[Hit]], wanted: list[list[Hit]]) -> None:
    """But for the last bits of the scores: a vector's depend on what is computed beside it."""
    scores = [[[hit.score for hit in hits] for hits in each] for each in (found, wanted)]
    assert sum(scores[0], []) == pytest.approx(sum(scores[1], []), abs=1e-4)
    bare = [[[replace(hit, score=0.0) for hit in hits] for hits in each] for each in (found, wanted)]
    assert bare[0] == bare[1]


# What is found


def brute_force(index: Index, query_E: np.ndarray) -> dict[Place, float]:
    """The cosine of each chunk, in double precision."""
    return {
        (path, key, start): float(np.frombuffer(vector, np.float32).astype(np.float64) @ query_E)
        for path, key, start, _, vector in contents(index)
    }


@pytest.mark.parametrize(("query", "tolerance"), [(QUERY, 1e-5), (" ".join(WORDS * 30), 1e-2)])
def test_dense_is_brute_force(index, embedder, query, tolerance) -> None:
    """Also for a question that is too long for the small engine; the full one may compute in bf16."""
    scores = brute_force(index, embedder.encode_query([query])[0])
    hits = index.search(query, ALL, "dense", details=False)
    assert sorted(map(place, hits)) == sorted(scores)
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores.values(), reverse=True), abs=tolerance)
    assert [hit.score for hit in hits] == pytest.approx([scores[place(hit)] for hit in hits], abs=tolerance)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [place(hit) for hit in index.search(query, 3, "dense")] == [place(hit) for hit in hits[:3]]


def test_an_instruction_changes_the_question(index, embedder) -> None:
    instruction = "find the opposite"
    scores = brute_force(index, embedder.encode_query([QUERY], instruction)[0])
    (plain,), (told,) = index.search(QUERY, 1, "dense"), index.search(QUERY, 1, "dense", instruction=instruction)
    assert told.score == pytest.approx(scores[place(told)], abs=1e-5)
    assert abs(told.score - plain.score) > 1e-4


def test_lexical_finds_words_in_another_form(index) -> None:
    assert {Path(hit.path).name for hit in index.search("copy folders", ALL, "lexical")} == {"guide.md"}
    with_cat = {Path(hit.path).name for hit in index.search("cats", ALL, "lexical")}
    assert with_cat == {"notes.txt", "odd [old] name.txt"}
    assert index.search("xylophone", mode="lexical") == []


def test_hybrid_is_the_fusion_of_both(index) -> None:
    dense, lexical = (index.search(QUERY, fusion.CANDIDATES, mode) for mode in ("dense", "lexical"))
    places = sorted({place(hit) for hit in (*dense, *lexical)})
    searches = []
    for hits in (dense, lexical):
        # As many places as there are texts, filled or not.
        rows, scores = np.full((1, len(dense)), NO_ROW), np.zeros((1, len(dense)), np.float32)
        rows[0, : len(hits)] = [places.index(place(hit)) for hit in hits]
        scores[0, : len(hits)] = [hit.score for hit in hits]
        searches.append(Hits(scores, rows))
    wanted = fusion.hybrid(*searches, 7)
    found = index.search(QUERY, 7, "hybrid")
    assert [place(hit) for hit in found] == [places[row] for row in wanted.rows[0] if row != NO_ROW]
    assert [hit.score for hit in found] == pytest.approx(wanted.scores[0].tolist(), abs=1e-5)
    assert index.search(QUERY, 7) == found
    by_ranks = index.search(QUERY, 7, fuse="ranks")
    wanted = fusion.by_ranks(*searches, 7)
    assert [place(hit) for hit in by_ranks] == [places[row] for row in wanted.rows[0] if row != NO_ROW]
    assert by_ranks[0].score == pytest.approx(wanted.scores[0, 0])
    with pytest.raises(ConfigError, match="fuse is 'sum'"):
        index.search(QUERY, 7, fuse="sum")


@pytest.mark.parametrize("fuse", ["scores", "ranks"])
def test_hybrid_reads_no_more_hits_than_it_fuses(index, monkeypatch, fuse) -> None:
    """A hit that isn't fused costs as much as one that is."""
    asked: list[int] = []
    for name in ("dense", "lexical"):
        real = getattr(Snapshot, name)

        def search(snapshot, queries, k, *, where=None, real=real) -> Hits:
            asked.append(k)
            return real(snapshot, queries, k, where=where)

        monkeypatch.setattr(Snapshot, name, search)
    index.search(QUERY, ALL, fuse=fuse)
    assert asked == [fusion.CANDIDATES] * 2


@pytest.mark.parametrize("mode", MODES)
def test_many_questions_and_any_k(index, mode) -> None:
    queries = [QUERY, "zebras", "日本語 🙂"]
    everything = index.search_many(queries, ALL, mode)
    assert_same(everything, [index.search(query, ALL, mode) for query in queries])
    assert_same([hits[:2] for hits in everything], index.search_many(queries, 2, mode))
    for hits in everything:
        assert sorted(-hit.score for hit in hits) == [-hit.score for hit in hits]
    assert index.search_many([], mode=mode) == []
    if mode != "lexical":
        assert [len(hits) for hits in everything] == [index.counts().chunks] * 3


@pytest.mark.parametrize("mode", MODES)
def test_hits_point_into_their_documents(index, tree, mode) -> None:
    for hit in index.search(f"{QUERY} zebras", ALL, mode):
        path = Path(hit.path)
        documents = Rows(path) if is_rows(path) else [read_document(path, path.read_bytes())]
        document = next(each for each in documents if each.id == hit.id)
        assert hit.text == document.text[hit.start : hit.end]
        assert hit.title == document.title
        assert hit.sentence and hit.sentence in hit.text
        at = hit.start + hit.text.index(hit.sentence)
        assert hit.line == 1 + document.text.count("\n", 0, at)
        for word in hit.words:
            assert word in hit.text
            assert word.lower().rstrip("s") in {"wizard", "judge", "cat", "zebra"}
        if mode == "lexical":
            assert hit.words


def test_without_details_a_hit_has_the_line_of_its_passage(index, tree) -> None:
    (hit,) = index.search("copies", 1, "lexical", where=Path("guide.md"), details=False)
    text = (tree / "guide.md").read_text()
    assert (hit.sentence, hit.words) == ("", ())
    assert hit.line == 1 + text.count("\n", 0, hit.start)


# Where


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("*.md", {"guide.md"}),
        ("guide.md", {"guide.md"}),
        ("uide.md", set()),
        ("deep", {"more.jsonl.gz", "odd [old] name.txt", "long.txt"}),
        ("deep/", {"more.jsonl.gz", "odd [old] name.txt", "long.txt"}),
        ("deep/*.txt", {"odd [old] name.txt", "long.txt"}),
        ("d??p/er", {"more.jsonl.gz"}),
        ("odd [old] name.txt", {"odd [old] name.txt"}),
        ("deep/odd [old] name.txt", {"odd [old] name.txt"}),
        ("[gp]*.[mr][ds]*", {"guide.md", "paper.rst"}),
        ("[[]", set()),
        ("", set(Path(name).name for name in TREE)),
        ("nothing/*", set()),
        ("./guide.md", {"guide.md"}),
        (".//deep/./er/", {"more.jsonl.gz"}),
        ("deep/er/../*.txt", {"odd [old] name.txt", "long.txt"}),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_where(index, where, names, mode) -> None:
    query = f"{SENTENCE} cat zebras row add"  # a word of each file
    assert {Path(hit.path).name for hit in index.search(query, ALL, mode, where=where)} == names


def test_where_is_seen_from_the_current_folder_where_it_says_so(index, tree, monkeypatch) -> None:
    monkeypatch.chdir(tree / "deep" / "er")
    for where, names in [
        (".", {"more.jsonl.gz"}),
        ("..", {"more.jsonl.gz", "odd [old] name.txt", "long.txt"}),
        ("../*.txt", {"odd [old] name.txt", "long.txt"}),
    ]:
        assert {Path(hit.path).name for hit in index.search(QUERY, ALL, "dense", where=where)} == names


def test_where_takes_absolute_paths(index, tree) -> None:
    for where in (tree, f"{tree}/", "/"):
        assert len(index.search(QUERY, ALL, "dense", where=str(where))) == index.counts().chunks
    hits = index.search(QUERY, ALL, "dense", where=str(tree / "deep" / "odd [old] name.txt"))
    assert {Path(hit.path).name for hit in hits} == {"odd [old] name.txt"}
    best = index.search(QUERY, ALL, "dense")
    assert [place(hit) for hit in index.search(QUERY, ALL, "dense", where="*.txt")] == [
        place(hit) for hit in best if hit.path.endswith(".txt")
    ]


# Refusals


@pytest.mark.parametrize(
    ("query", "options", "error", "message"),
    [
        ("", {}, DataError, "the query '' is empty"),
        (" \n\t", {}, DataError, "is empty"),
        (3, {}, DataError, "the query 3 is empty"),
        ("a\ud800", {}, DataError, "half a surrogate pair"),
        ("a", {"k": 0}, ConfigError, "k must be"),
        ("a", {"k": 1.5}, ConfigError, "k must be"),
        ("a", {"mode": "fuzzy"}, ConfigError, "mode is 'fuzzy'.*\n.*dense, lexical, hybrid"),
        ("a", {"where": "\udcff"}, ConfigError, "no Unicode"),
        ("a", {"instruction": "\ud800"}, ConfigError, "half a surrogate pair"),
    ],
)
def test_questions_that_are_none(index, query, options, error, message) -> None:
    with pytest.raises(error, match=message):
        index.search(query, **options)
    if not isinstance(query, str) or not query.strip():
        with pytest.raises(error, match=message):
            index.search_many([QUERY, query], mode="lexical")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("query", ["\0", '" OR NOT *', "!?", "🙂", "the", "a" * 5000])
def test_any_other_string_is_a_question(index, mode, query) -> None:
    hits = index.search(query, 5, mode)
    assert len(hits) == 5 or mode == "lexical"


@pytest.mark.parametrize("single", ["abc", b"abc", Path("abc"), 3])
def test_a_single_thing_is_no_list(index, single) -> None:
    """A string would be taken letter by letter: `remove(paths="/x")` for everything."""
    before = index.counts()
    for call, name in [
        (lambda: index.search_many(single), "queries"),
        (lambda: index.embed_queries(single), "texts"),
        (lambda: index.remove(paths=single), "paths"),
        (lambda: index.remove(ids=single), "ids"),
    ]:
        with pytest.raises(ConfigError, match=f"{name} takes a list, got .*\n.*{name}="):
            call()
    assert index.counts() == before


def test_vectors_of_questions(index, embedder) -> None:
    vectors = index.embed_queries([QUERY, "zebras"])
    assert np.allclose(vectors, embedder.encode_query([QUERY, "zebras"]), atol=1e-5)
    told = index.embed_queries([QUERY], "find the opposite")
    assert np.allclose(told, embedder.encode_query([QUERY], "find the opposite"), atol=1e-5)
    with pytest.raises(DataError, match="is empty"):
        index.embed_queries([QUERY, " "])


def test_a_look_sees_one_moment(tree, embedder, tmp_path) -> None:
    index_files([tree / "notes.txt"], tmp_path / "index", model=embedder, chunk_tokens=CHUNK)
    with Index.open(tmp_path / "index") as index:

        def look(snapshot) -> tuple[set[str], set[str]]:
            before = set(snapshot.files())
            index_files([tree / "guide.md"], tmp_path / "index", model=embedder)
            return before, set(snapshot.files())

        before, after = index.read(look)
        assert before == after == {str(tree / "notes.txt")}
        assert index.read(lambda snapshot: len(snapshot.files())) == 2
    with pytest.raises(DataError, match="was closed"):
        index.counts()


# Places


def test_a_moved_index_and_a_moved_model(folder, tree, model, tmp_path) -> None:
    own, moved = tmp_path / "model", tmp_path / "moved"
    shutil.copytree(model, own)
    index_files([tree], tmp_path / "index", model=own, chunk_tokens=CHUNK)
    (tmp_path / "index").rename(moved)
    with closing(Index.open(moved)) as index:
        before = index.search(QUERY)
        assert index.check() == []
    own.rename(tmp_path / "elsewhere")
    with closing(Index.open(moved)) as index:
        with pytest.raises(CheckpointError, match="the model of the index can't be found.*\n.*--mode lexical"):
            index.search(QUERY)
        assert index.search(QUERY, mode="lexical")
    with closing(Index.open(moved, model=tmp_path / "elsewhere")) as index:
        assert index.search(QUERY) == before
    save_model(own, max_tokens=200)
    with closing(Index.open(moved)) as index, pytest.raises(IndexFormatError, match="another model"):
        index.search(QUERY, mode="dense")
    with pytest.raises(IndexFormatError, match="another model"):
        Index.open(moved, model=own)


def test_two_threads_get_the_answers_of_one(folder) -> None:
    queries = [*WORDS, "cat", "zebras", "a row"]
    with closing(Index.open(folder)) as index, ThreadPoolExecutor(2) as threads:
        found = list(threads.map(index.search, queries * 2))
    with closing(Index.open(folder)) as index:
        assert_same(found, index.search_many(queries) * 2)


# Documents that come from no file


def test_add_replace_and_remove(notes, embedder) -> None:
    first = [Document(id="a", title="Alpha", text="the cat sat"), Document(id="b", text="")]
    account = notes.add(first)
    assert (account.documents, account.empty, account.chunks, account.files_read) == (2, 1, 1, 0)
    (hit,) = notes.search("sat", mode="lexical")
    assert (hit.path, hit.id, hit.title, hit.text, hit.words) == ("", "a", "Alpha", "the cat sat", ("sat",))
    assert notes.add(first).reused == 2
    account = notes.add([Document(id="a", title="Beta", text="the cat sat"), Document(id="c", text=SENTENCE)])
    assert account.reused == 1
    assert notes.search("beta", mode="lexical")[0].id == "a"
    assert {hit.id for hit in notes.search("cat", 9, "dense")} == {"a", "c"}
    assert notes.remove(ids=["a", "zzz"]) == 1
    assert {hit.id for hit in notes.search("cat", 9, "dense")} == {"c"}
    assert notes.counts().documents == 2 and notes.counts().files == 0
    assert notes.check() == []


def test_the_order_of_additions_does_not_show(notes, embedder, tmp_path) -> None:
    documents = [Document(id=str(n), title=f"t{n}", text=f"{n} {SENTENCE} " * n) for n in range(4)]
    notes.add(documents)
    with closing(Index.create(tmp_path / "other", model=embedder, chunk_tokens=CHUNK)) as other:
        other.add([Document(id="3", text="what it was"), Document(id="gone", text="gone")])
        other.remove(ids=["gone"])
        for document in reversed(documents):
            other.add(iter([document]))
        assert contents(other) == contents(notes)


def test_zero_bytes_become_spaces(notes) -> None:
    document = Document(id="a", title="x\0y", text="be\0fore after")
    notes.add([document])
    (hit,) = notes.search("after", 1)
    assert (hit.text, hit.title) == ("be fore after", "x y")
    assert notes.add([document]).reused == 1


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([Document(id="a", text="one"), Document(id="a", text="two")], "the id 'a' occurs twice"),
        ([Document(id="a", text="one"), Document(id="b", text="\ud800")], "the text of the document 'b' holds half"),
        ([Document(id="a", text="one"), Document(id="b", title="\ud800", text="")], "the title of the document 'b'"),
        ([Document(id="a", text="one"), Document(id="\ud800", text="")], "the id of the document"),
        ([Document(id="2", text="one"), Document(id=2, text="two")], "the id of a document must be a string, got int"),
        ([Document(id="a", text="one"), Document(id="b", text="x", headings=(9,))], "headings"),
    ],
)
def test_documents_that_are_none_leave_the_index_as_it_was(notes, documents, message) -> None:
    notes.add([Document(id="a", text="before")])
    with pytest.raises((DataError, ConfigError), match=message):
        notes.add(documents)
    assert [hit.text for hit in notes.search("one before", 9, "dense")] == ["before"]


def test_a_new_index_needs_an_empty_folder(tmp_path, embedder) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name, message in [("full", "holds 'letter.txt', which belongs to no index"), ("file", "is a file")]:
        with pytest.raises(DataError, match=message):
            Index.create(tmp_path / name, model=embedder)
    assert (tmp_path / "full" / "letter.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    Index.create(tmp_path / "empty", model=embedder).close()
    with pytest.raises(DataError, match="there is an index in .* already"):
        Index.create(tmp_path / "empty", model=embedder)
    with pytest.raises(DataError, match="there is no index in"):
        Index.open(tmp_path / "nowhere")


def test_an_empty_index_finds_nothing(notes) -> None:
    assert [notes.search("cat", mode=mode) for mode in MODES] == [[], [], []]


def test_removing_what_is_not_there(notes) -> None:
    notes.add([Document(id="a", text="one"), Document(id="b", text="two")])
    assert notes.remove(ids=["x"], paths=["/nowhere"]) == 0
    for arguments in ({"ids": ["a", "x"]}, {"ids": ["a"], "paths": ["/nowhere"]}):
        with pytest.raises(DataError, match="nothing of (x|/nowhere) is in the index"):
            notes.remove(**arguments, must_exist=True)
    assert notes.ids() == {"a", "b"}
    assert notes.remove(ids=["a", "b", "a"], must_exist=True) == 2


def test_remove_files_and_folders(tree, embedder, tmp_path) -> None:
    index_files([tree], tmp_path / "index", model=embedder, chunk_tokens=CHUNK)
    with closing(Index.open(tmp_path / "index")) as index:
        assert index.remove(paths=[tree / "nothing", tree / "dee", tree.with_name("tre")]) == 0
        assert index.counts().files == len(TREE)
        assert index.remove(paths=[tree / "deep", f"{tree}/guide.md", tree / "deep" / "long.txt"]) == 4
        assert {Path(hit.path).name for hit in index.search(QUERY, ALL, "dense")} == {
            "notes.txt",
            "paper.rst",
            "code.py",
            "rows.jsonl",
        }
        index.add([Document(id="note", text="stays")])
        assert index.remove(paths=["/"]) == 4
        assert [hit.text for hit in index.search("anything", ALL, "dense")] == ["stays"]
        assert index.check() == []
