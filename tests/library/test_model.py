"""The model of an index: found again, the same one, and computing as it did."""

import shutil
from pathlib import Path

import pytest

from diffembed import Embedder
from diffembed.embedder import locate
from diffembed.errors import CheckpointError, ConfigError, IndexFormatError
from diffembed.library.index import Index
from diffembed.library.model import LibraryModel
from diffembed.library.reading.document import Document
from diffembed.library.update import index_files
from tests.library.conftest import CHUNK, TREE, contents, contents_of, save_model, write
from tests.tiny_embedders import SENTENCE

DOCUMENTS = [Document(id=str(n), text=f"{n} {SENTENCE} " * (n + 1)) for n in range(4)]


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A model to be spoilt."""
    return Path(shutil.copytree(model, tmp_path / "own"))


# Its name


def test_a_folder_is_kept_by_its_place(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latest").symlink_to("own")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("../own", Path("../latest"), "~/own", own):
        assert LibraryModel.of(name).name == str(own)
    with Index.create("index", model="~/latest") as index:
        index.add(DOCUMENTS)
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/nowhere")
    (tmp_path / "latest").unlink()
    with Index.open(tmp_path / "work" / "index") as index:
        assert index.settings.model == str(own)
        assert len(index.search("wizards", 9, "dense")) == index.counts().chunks
    for name in ("~nobody-has-this-name/m", "~/own"):
        with pytest.raises(CheckpointError):
            LibraryModel.of(name)


def test_the_builtin_model_is_kept_by_its_name(tmp_path: Path) -> None:
    assert LibraryModel.of("builtin").name == LibraryModel.of(locate.builtin.FOLDER).name == "builtin"


def test_a_hub_id_is_kept_as_the_revision_that_was_fetched(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "_download", lambda name: own)
    with Index.create(tmp_path / "index", model="somebody/something") as index:
        index.add(DOCUMENTS)

    def refuse(name: str) -> Path:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(locate, "_download", refuse)
    monkeypatch.chdir(tmp_path)
    with Index.open(tmp_path / "index") as index:
        assert index.settings.model == str(own)
        assert index.search("wizards", mode="dense")
        index.add([Document(id="new", text="one more")])


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no config.json"):
        LibraryModel.of(tmp_path)


# Its fingerprint


def test_an_embedder_is_what_it_was_when_it_was_loaded(own: Path, tmp_path: Path) -> None:
    """Whatever has happened to its folder since."""
    embedder = Embedder.load(own, "cpu", "float32")
    with Index.create(tmp_path / "before", model=embedder) as index:
        wanted = index.settings.fingerprint
    shutil.rmtree(own)
    save_model(own, max_tokens=200)
    with Index.create(tmp_path / "after", model=embedder) as index:
        assert index.settings.fingerprint == wanted
        index.add(DOCUMENTS)
    with Index.open(tmp_path / "after", model=embedder) as index:
        assert index.search("wizards", mode="dense")
    with Index.open(tmp_path / "after") as index, pytest.raises(IndexFormatError, match="another model"):
        index.search("wizards", mode="dense")


def test_a_model_that_changes_under_an_open_index(own: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "index", model=own) as index:
        index.add(DOCUMENTS)
    with Index.open(tmp_path / "index") as index:
        assert index.search("wizards", mode="dense")
        shutil.rmtree(own)
        save_model(own, max_tokens=200)
        with pytest.raises(IndexFormatError, match="another model"):
            index.add([Document(id="new", text="one more")])
        assert index.counts().documents == len(DOCUMENTS)


def test_a_model_that_changes_between_opening_and_asking(own: Path, tmp_path: Path) -> None:
    with Index.create(tmp_path / "index", model=own) as index:
        index.add(DOCUMENTS)
    with Index.open(tmp_path / "index", model=own) as index:
        shutil.rmtree(own)
        save_model(own, max_tokens=200)
        with pytest.raises(IndexFormatError, match="another model"):
            index.search("wizards", mode="dense")
        assert index.search("wizards", mode="lexical")


# Its number format


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_documents_are_embedded_as_those_that_are_there(own: Path, tmp_path: Path, dtype: str) -> None:
    """On any machine, whatever it would choose by itself."""
    other = {"float32": "bfloat16", "bfloat16": "float32"}[dtype]
    embedder = Embedder.load(own, "cpu", dtype)
    with Index.create(tmp_path / "index", model=embedder, chunk_tokens=CHUNK) as index:
        assert index.settings.dtype == dtype
        index.add(DOCUMENTS[:2])
    with Index.open(tmp_path / "index") as index:
        index.add(DOCUMENTS[2:3])
    with Index.open(tmp_path / "index", model=own) as index:
        index.add(DOCUMENTS[3:])
        found = contents(index)
    with Index.create(tmp_path / "whole", model=embedder, chunk_tokens=CHUNK) as index:
        index.add(DOCUMENTS)
        assert contents(index) == found
    with Index.open(tmp_path / "index", model=Embedder.load(own, "cpu", other)) as index:
        assert index.search("wizards", mode="dense")  # questions may be computed otherwise
        message = f"made in {dtype}, and the embedder computes in {other}\n.*dtype='{dtype}'"
        with pytest.raises(ConfigError, match=message):
            index.add([Document(id="new", text="one more")])


def test_files_are_brought_up_to_date_as_they_were_embedded(own: Path, tmp_path: Path) -> None:
    tree = write(tmp_path / "tree", TREE)
    half = Embedder.load(own, "cpu", "bfloat16")
    index_files([tree], tmp_path / "index", model=half, chunk_tokens=CHUNK)
    write(tree, {"notes.txt": f"changed: {SENTENCE}".encode()})
    before = contents_of(tmp_path / "index")
    with pytest.raises(ConfigError, match="computes in float32"):
        index_files([tree], tmp_path / "index", model=Embedder.load(own, "cpu", "float32"))
    assert contents_of(tmp_path / "index") == before
    index_files([tree], tmp_path / "index")
    index_files([tree], tmp_path / "whole", model=half, chunk_tokens=CHUNK)
    assert contents_of(tmp_path / "index") == contents_of(tmp_path / "whole")
