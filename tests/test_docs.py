"""What the documentation says can be typed, and what it claims has a record."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from diffembed.cli import VERBS, app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL_BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL_OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}


def commands(page: str) -> list[list[str]]:
    """Every `diffembed ...` of the shell blocks of a page, as words without the program's name."""
    found = []
    for block in SHELL_BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words:
                end = next((i for i, word in enumerate(words) if word in SHELL_OPERATORS), len(words))
                if words[:1] == ["diffembed"]:
                    found.append(words[1:end])
                words = words[end + 1 :]
    return found


def parse(words: list[str]) -> None:
    """Parse a command line down to its verb without running it; raises what the command line would complain about."""
    group = typer.main.get_command(app)
    with group.make_context("diffembed", list(words)) as context:
        name, verb, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
        verb.make_context(name, rest, parent=context)


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


EXAMPLES = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), EXAMPLES, ids=[f"{page}: {shlex.join(words)}" for page, words in EXAMPLES])
def test_every_command_shown_parses(page: str, words: list[str]) -> None:
    try:
        parse(words)
    except typer.Exit:  # --help and --version stop while they are parsed
        assert {"--help", "--version"} & set(words)


@pytest.mark.parametrize("words", [["embed", "x", "--rolle", "query"], ["embed", "x", "--role", "both"], ["embedd"]])
def test_a_wrong_command_would_be_seen(words: list[str]) -> None:
    shown = commands(f"text\n```sh\n$ echo 1 | diffembed {shlex.join(words)} > x  # comment\n```\n")
    assert shown == [words]
    with pytest.raises(Exception, match="rolle|is not one of|no verb"):
        parse(words)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented(verb: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert re.search(rf"\bdiffembed {verb}\b", text)


def test_every_figure_of_the_readme_has_a_record() -> None:
    assert tables_without_record(PAGES[0].read_text(encoding="utf-8")) == []


def test_a_figure_without_a_record_would_be_seen() -> None:
    assert tables_without_record("# a\n| x | 0.71 |\n# b\n| x | y |\n") == ["# a"]
    assert tables_without_record("# a\n[r](records/none.md)\n| x | **71** |\n") == ["# a"]
