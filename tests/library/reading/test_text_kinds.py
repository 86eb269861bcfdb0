"""Markdown, reStructuredText and Python: sections begin where a person sees them begin."""

import re
import textwrap
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading.document import Document
from diffembed.library.reading.read import read_document
from diffembed.library.reading.restructured import find_titles

MARKDOWN = """\
Intro, not a heading

# First *big* `x` [link](http://a.b)

```python
# a comment
```

    # code again

Second one
over two lines
==============

> ## Quoted

- item
  ### Listed

\\# no heading, #nor this
####### seven

Last
---
"""
RST = """\
.. _label:

=======
 Title
=======

Some text
that goes on
------------

Section
-------
Sub-section
~~~~~~~~~~~
Text.

----

=====  =====
one    two
=====  =====

::

    Not a title
    ===========

* item
======

漢字漢字
========

Tiny
--

A
^
"""
PYTHON = '''\
#!/usr/bin/env python
"""Read and write things.

More of it.
"""

import functools


class Reader:
    """def not_this(): pass"""

    @property
    @functools.cache
    def size(self):
        def inner(): ...
        return inner

    async def go(self): ...


if True:

    def chosen(): return """
class NotThis: pass
"""
'''


def read(name: str, text: str) -> Document:
    return read_document(Path(name), text.encode())


def lines_at(document: Document) -> list[str]:
    """The line at each heading's offset."""
    return [document.text[start:].split("\n", 1)[0] for start in document.headings]


def test_markdown():
    document = read("notes.md", MARKDOWN)
    assert lines_at(document) == [
        "# First *big* `x` [link](http://a.b)",
        "Second one",
        "> ## Quoted",
        "  ### Listed",
        "Last",
    ]
    assert document.text == MARKDOWN
    assert document.title == "First big x link"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\r\r\n"])
def test_markdown_offsets_hold_for_any_newline(newline):
    document = read("notes.md", MARKDOWN.replace("\n", newline))
    found = [re.match(r"[> #]*(\w*)", document.text[start:]) for start in document.headings]
    assert [match and match[1] for match in found] == ["First", "Second", "Quoted", "Listed", "Last"]


def test_markdown_front_matter():
    front = '---\nlayout: post\ntitle: "On cats"\ntags: [a]\n---\n'
    document = read("post.md", front + "# Body\n")
    assert (document.title, lines_at(document)) == ("On cats", ["# Body"])
    assert document.text.startswith("---\nlayout")
    assert read("post.md", "---\ntitle: >\n  folded\n---\n# Body\n").title == "Body"
    assert read("post.md", "---\ntitle: Alone\n---").title == "Alone"
    ruled = read("post.md", "---\n\nSome text\n\n---\n\n# Body\n")
    assert (ruled.title, lines_at(ruled)) == ("Body", ["# Body"])


@pytest.mark.parametrize(
    "text", [">" * 50_000, "- " * 50_000, "[" * 50_000, "`a" * 50_000, "# " + "*a_ " * 50_000, "---\na:\n" * 20_000]
)
def test_hostile_markdown_takes_no_long_time(text):
    start = time.process_time()
    read("a.md", text)
    assert time.process_time() - start < 10


def test_restructured():
    document = read("index.rst", RST)
    assert lines_at(document) == ["=======", "Section", "Sub-section", "漢字漢字", "A"]
    assert document.title == "Title"
    assert document.text == RST


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["Title", "===="], [(0, 0)]),  # too short, but long enough to be meant
        (["Title", "==="], []),
        (["Ti", "=="], [(0, 0)]),
        (["漢字", "==="], []),
        (["漢字", "===="], [(0, 0)]),
        (["Title", "=-=-="], []),
        (["Title", ""], []),
        (["=====", "Title", "====="], [(0, 1)]),
        (["=====", "Title", "-----"], [(0, 0)][1:]),
        (["=====", "", "Title", "====="], [(2, 2)]),
        (["text", "Title", "====="], []),
        ([" Title", "======"], []),
        (["A", "=", "B", "-"], [(0, 0), (2, 2)]),
        ([], []),
    ],
)
def test_restructured_rules(lines, found):
    assert find_titles(lines) == found


def test_python():
    document = read("things/reader.py", PYTHON)
    assert [line.strip() for line in lines_at(document)] == [
        "class Reader:",
        "@property",
        "def inner(): ...",
        "async def go(self): ...",
        'def chosen(): return """',
    ]
    assert all(start == 0 or document.text[start - 1] == "\n" for start in document.headings)
    assert document.title == "reader: Read and write things."
    assert document.text == PYTHON
    assert read("things/__init__.py", PYTHON).title == "things: Read and write things."
    assert read("things/plain_one.py", "x = 1").title == "plain_one"


def test_python_headings_of_a_real_module():
    source = Path(textwrap.__file__).read_text(encoding="utf-8")
    document = read("textwrap.py", source)
    wanted = [match.start() for match in re.finditer(r"^ *(?:class|def) ", source, re.MULTILINE)]
    assert list(document.headings) == wanted and len(wanted) > 10


@given(st.lists(st.sampled_from(["x = 1", "def f(): ...", "class C: ...", "'''a", "b'''", "# é", ""]), max_size=12))
def test_python_offsets_hold_for_any_newline(lines):
    wanted = [line for line in lines_at(read("a.py", "pass\n" + "\n".join(lines)))]
    for newline in ("\r\n", "\r"):
        document = read("a.py", newline.join(["pass", *lines]))
        assert [re.split(r"[\r\n]", document.text[start:])[0] for start in document.headings] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "print 'Python 2'\ndef f(): pass\n",
        "(" * 10_000 + ")" * 10_000,
        "-" * 100_000 + "1",
        "a" + ".b" * 100_000,
        "+".join("1" * 50_000),
        "f" + "()" * 50_000,
        "if 1: pass\n" + "elif 1: pass\n" * 10_000,
        "def f(:\n",
    ],
)
def test_python_that_does_not_parse_is_text(text):
    document = read("odd_one.py", text)
    assert (document.text, document.headings, document.title) == (text, (), "odd_one")


@pytest.mark.parametrize("size", [400_000, 1_200_000, 3_900_000])
def test_a_syntax_tree_does_not_fill_the_memory(size):
    tracemalloc.start()
    try:
        assert read("a.py", "x = [" + "a," * (size // 2) + "]").text
        assert tracemalloc.get_traced_memory()[1] < 700_000_000
    finally:
        tracemalloc.stop()


def test_python_may_name_its_encoding():
    for encoding in ("latin-1", "cp1252", "iso-8859-15"):
        data = f"#!/bin/sh\n# -*- coding: {encoding} -*-\nname = 'café'\n".encode(encoding)
        assert "café" in read_document(Path("a.py"), data).text
    for foreign in ("punycode", "rot13", "../../x", "unicode_escape", "undefined"):
        with pytest.raises(ValueError, match="not UTF-8 text"):
            read_document(Path("a.py"), f"# coding: {foreign}\nx = 'caf".encode() + b"\xe9'")


def test_half_a_character_in_a_docstring_does_not_reach_the_title():
    assert read("a.py", '"""Half \\ud83d of it"""\n').title == "a: Half \ufffd of it"
