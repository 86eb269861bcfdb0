"""HTML: what a browser shows, in its order, and no page takes forever."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading.document import Document
from diffembed.library.reading.read import Unreadable, read_document

pytestmark = pytest.mark.extra
pytest.importorskip("selectolax")

PAGE = """\
<!doctype html>
<html><head><title> The
 page </title><style>p { color: red }</style><meta charset="utf-8"><script>var x = "<div>";</script></head>
<body>
<!-- a comment --><header><a href="/">Home</a> <a href="/b">B</a></header>
<h1>Big <em>things</em>&amp;nbsp;</h1>
<p>Some <b>bo</b>ld   text&nbsp;&mdash; and
more<br>after a break.<p>Unclosed
<h2>
  <a name=x></a>Second</h2><template><p>not shown</p></template>
<noscript>no script</noscript><ul><li>one<li>two <i>and</i></ul>
<table><tr><th>A<th>B<tr><td>1</td><td><p>2</p></td></tr></table>
<pre>
  kept
    as is</pre>
<h3></h3><svg><title>tip</title><text>drawn</text></svg><textarea>typed</textarea>
<select><option>first<option>second</select>
</body></html>
"""
SHOWN = """\
Home B

Big things&nbsp;

Some bold text — and more
after a break.

Unclosed

Second

one
two and

A\tB
1

2

  kept
    as is

drawn
typed
first
second"""


def read(text: str, name: str = "page.html") -> Document:
    return read_document(Path(name), text.encode())


def test_a_page():
    document = read(PAGE)
    assert document.text == SHOWN
    assert document.title == "The page"
    assert [document.text[start:].split("\n")[0] for start in document.headings] == ["Big things&nbsp;", "Second"]


def test_the_title_is_the_first_h1_where_there_is_no_other():
    assert read("<h2>no</h2><h1> Big\n <b>one</b></h1><h1>two</h1>").title == "Big one"
    assert read("<title> </title><h1>one</h1>").title == "one"
    assert read("<p>x<svg><title>no</title></svg>", "my_page.htm").title == "my page"


@pytest.mark.parametrize(
    "page", ["", "<title>only</title>", "<script>x</script>", "<img src='a.png'>", "<frameset><frame src=a></frameset>"]
)
def test_a_page_that_shows_nothing(page):
    with pytest.raises(Unreadable) as caught:
        read(page)
    assert caught.value.reason == "no text in it"


@pytest.mark.parametrize(
    ("declaration", "encoding", "text"),
    [
        ("<meta charset=windows-1251>", "cp1251", "Привет"),
        ('<META http-equiv=Content-Type content="text/html; charset=Shift_JIS">', "cp932", "日本語"),
        ("<meta charset='iso-8859-1'>", "cp1252", "“café”"),
        ("<meta charset=iso-2022-jp>", "iso2022_jp", "日本語"),
        ('<?xml version="1.0" encoding="ISO-8859-15"?>', "iso8859-15", "5 €"),
        ("<meta charset=iso-8859-1>", "utf-8", "“café”"),
        ("", "utf-8", "“café”"),
        ("<meta charset=no-such>", "utf-16", "“café”"),
    ],
)
def test_encodings(declaration, encoding, text):
    assert read_document(Path("a.html"), f"{declaration}<p>{text}".encode(encoding)).text == text


@pytest.mark.parametrize("charset", ["no-such", "punycode", "utf-7", "../../x", "", "utf-8", "gbk"])
def test_an_unknown_or_wrong_encoding_is_refused(charset):
    with pytest.raises(Unreadable, match="not (UTF-8|gbk) text"):
        read_document(Path("a.html"), f"<meta charset={charset}><p>caf".encode() + b"\xe9\xff")


def test_half_characters_do_not_come_out():
    assert read("<p>a&#xD800;&#55357;&#56898;&#0;b").text.encode()


NAMES = [
    "b",
    "a",
    "em",
    "div",
    "p",
    "span",
    "ul",
    "li",
    "h1",
    "h2",
    "section",
    "x-y",
    "pre",
    "td",
    "font",
    "BLOCKQUOTE",
]
NAMES += ["select", "option", "svg", "button", "br", "table"]


@given(st.lists(st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map("/".__add__), st.none()), max_size=60))
def test_every_word_is_kept_whatever_the_tags(parts):
    words = [f"w{number}w" if part is None else f"<{part} class='a b'>" for number, part in enumerate(parts)]
    wanted = sorted(word for word, part in zip(words, parts, strict=True) if part is None)
    try:
        document = read("".join(words))
    except Unreadable:
        assert not wanted
        return
    assert sorted(re.findall(r"w\d+w", document.text)) == wanted
    assert all(re.match(r"\S", document.text[start:]) for start in document.headings)


@pytest.mark.parametrize("depth", [100, 510, 600, 100_000])
def test_deep_pages_keep_their_text(depth):
    start = time.process_time()
    document = read("<h1>Top</h1>" + "<div>" * depth + "inside<script>hidden</script>" + "</div>" * depth + "<p>after")
    assert time.process_time() - start < 10
    assert document.text.split() == ["Top", "inside", "after"]


@pytest.mark.parametrize(
    "page",
    [
        "<select>" + "<option>x" * 50_000,
        "".join(f"<b a={number}>" for number in range(5_000)) + "<p>x" * 5_000,
        "<b><p>x" * 50_000,
        "<a><div>x" * 50_000,
        "<x><h1></x>x" * 20_000,
        "<div><table></div>x" * 20_000,
        "<div></span>x" * 50_000,
        "<svg>" + "<td>" * 50_000 + "x",
        "x<!--" * 100_000,
        "<" * 200_000 + "x",
        "&" * 200_000,
        "x<a " * 100_000,
    ],
)
def test_hostile_pages_take_no_long_time(page):
    start = time.process_time()
    assert "x" in read("x" + page).text
    assert time.process_time() - start < 10


def test_a_page_of_too_many_tags_is_refused():
    with pytest.raises(Unreadable, match="over 5 million tags"):
        read("<" * 5_000_001)
