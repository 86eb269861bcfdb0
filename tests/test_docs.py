"""What the documentation says can be typed, what it claims has a record, and what it points to is there."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from diffembed import builtin, configs, recipes
from diffembed.cli.app import VERBS, app
from tests.test_layers import LAYERS
from tests.tiny_embedders import make

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
ALL_PAGES = sorted({*ROOT.glob("*.md"), *PAGES, *(ROOT / "records").rglob("*.md")})
SOURCES = [path for folder in ("src/diffembed/recipes", "scripts") for path in sorted((ROOT / folder).glob("*.py"))]
SHELL_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
IN_BACKTICKS = re.compile(r"`(diffembed [^`]+)`")
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}


def commands(page: str) -> list[list[str]]:
    """Every `diffembed ...` of the shell blocks of a page, as words without the program's name."""
    return [words for block in SHELL_BLOCK.findall(page) for words in commands_of(block)]


def commands_of(block: str) -> Iterator[list[str]]:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in SHELL_OPERATORS), len(words))
            if words[:1] == ["diffembed"]:
                yield words[1:end]
            words = words[end + 1 :]


def commands_in_docstrings(source: str) -> list[list[str]]:
    """Those in backticks or indented as an example; a bare `diffembed VERB` only names the verb."""
    found: list[list[str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            indented = re.findall(r"^ +(?:\$ )?diffembed .*(?:\\\n.*)*", text, re.MULTILINE)
            quoted = [" ".join(each.split()) for each in IN_BACKTICKS.findall(text)]
            found += [words for each in (*indented, *quoted) for words in commands_of(each) if len(words) > 1]
    return found


def parse(words: list[str]) -> None:
    """Parse a command line, its recipe and its settings without running it; raises what it would complain of."""
    group = typer.main.get_command(app)
    with group.make_context("diffembed", list(words)) as context:
        name, verb, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
        given = verb.make_context(name, rest, parent=context).params
    if name in recipes.TABLES:
        configs.override(recipes.load(recipes.TABLES[name](), given["recipe"]), given["settings"] or [])


def tables_without_record(page: str) -> list[str]:
    """Headings of the sections that show a table with figures and link to no record that exists."""
    lacking = []
    for section in re.split(r"^(?=#+ )", page, flags=re.MULTILINE):
        rows = [line for line in section.splitlines() if line.startswith("|")]
        if any(re.search(r"\|\s*[*~<>]*[-+.]?\d", row) for row in rows):
            links = re.findall(r"\]\((records/[^)#]+)", section)
            if not links or not all((ROOT / link).is_file() for link in links):
                lacking.append(section.splitlines()[0])
    return lacking


def dead_links(page: Path) -> list[str]:
    """Local targets of links that are no file and no folder with something in it (git keeps no empty ones)."""
    targets = re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    places = [(target, page.parent / target) for target in targets]
    return [target for target, path in places if not (path.is_file() or (path.is_dir() and any(path.iterdir())))]


EXAMPLES = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
EXAMPLES += [
    (path.name, words) for path in SOURCES for words in commands_in_docstrings(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "words"), EXAMPLES, ids=[f"{page}: {shlex.join(words)}" for page, words in EXAMPLES])
def test_every_command_shown_parses(page: str, words: list[str]) -> None:
    try:
        parse(words)
    except typer.Exit:  # --help and --version stop while they are parsed
        assert {"--help", "--version"} & set(words)


@pytest.mark.parametrize(
    "words",
    [
        ["embed", "x", "--rolle", "query"],
        ["embed", "x", "--role", "both"],
        ["embedd"],
        ["pretrain", "smokk"],
        ["finetune", "smoke", "--set", "innit=x"],
    ],
)
def test_a_wrong_command_would_be_seen(words: list[str]) -> None:
    shown = commands(f"text\n```sh\n$ echo 1 | diffembed {shlex.join(words)} > x  # comment\n```\n")
    assert shown == [words]
    with pytest.raises(Exception, match="rolle|is not one of|no verb|smokk|innit"):
        parse(words)


def test_commands_in_docstrings_are_seen() -> None:
    source = (
        'def f():\n    """As `diffembed x` and `diffembed embed\n    a --json`.\n\n        $ diffembed demo b\n    """'
    )
    assert commands_in_docstrings(source) == [["demo", "b"], ["embed", "a", "--json"]]
    assert {page for page, _ in EXAMPLES} >= {"README.md", "pretrain.py", "finetune.py"}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented(verb: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert re.search(rf"\bdiffembed {verb}\b", text)


def test_every_figure_of_the_readme_has_a_record() -> None:
    assert tables_without_record(README.read_text(encoding="utf-8")) == []


def test_a_figure_without_a_record_would_be_seen() -> None:
    assert tables_without_record("# a\n| x | 0.71 |\n# b\n| x | y |\n") == ["# a"]
    assert tables_without_record("# a\n[r](records/none.md)\n| x | **71** |\n") == ["# a"]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.md").write_text("[a](page.md#top) [b](none.md) [c](https://x.org/y) [d](#top) [e](empty/)")
    assert dead_links(tmp_path / "page.md") == ["none.md", "empty/"]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_page_waits_for_its_text(page: Path) -> None:
    assert re.findall(r"<!-- *[A-Z]{4,}\b.*", page.read_text(encoding="utf-8")) == []


def test_the_layers_shown_are_the_layers_tested() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^## Layers$.*?^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown.splitlines() == LAYERS


def test_every_mark_and_target_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    marks = re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(marks) >= 5 and [mark for mark in marks if f"`{mark}`" not in text] == []
    targets = re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(targets) >= 5 and [each for each in targets if f"`make {each}`" not in text] == []


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if not (builtin.FOLDER / "config.json").is_file():  # a stand-in in a copy without the model
        make().save(tmp_path / "builtin")
        monkeypatch.setattr(builtin, "FOLDER", tmp_path / "builtin")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "trains.md").write_text("# Trains\n\nOn Sundays only the slow train runs.\n")
    for code in codes:
        exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert "Report(texts=1" in shown
    assert "trains.md 3 On Sundays only the slow train runs. ('Trains', 'Sundays', 'train', 'runs')" in shown
    assert (tmp_path / "my-model" / "config.json").is_file()
