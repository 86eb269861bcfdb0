"""HTML: what a browser shows, in its order, and no page takes forever."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading.document import Document
from diffembed.library.reading.read import Unreadable, read_document

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


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("a < b, 1 <2, <3 & c", "a < b, 1 <2, <3 & c"),
        ("<p title='a>b' data-x=\"c>d\" hidden>x", "x"),
        ("<p title=it's>x</p><p it's \">y", "x\n\ny"),
        ("<a href=a?b='c>d", "d"),
        ("<a href = 'x>y' =z 'w>t", "t"),
        ("<a href='never closed>x</a> y", "x y"),
        ("a<!-- <p> -- > --!>b<!-->c<!--->d<!--e", "abcd"),
        ("<!doctype html>a<?php echo 1 ?>b</>c</ p>d<![CDATA[e]]>f", "abcdf"),
        ("a<p", "a"),
        ("a</", "a</"),
        ("x<P\n>y</P\t>z<p\xa0>w</p>v", "x\n\ny\n\nzw\n\nv"),
        ("<template>a<template>b</template>c</template>d", "d"),
        ("<datalist><option>a</datalist><noscript>b<p>c</noscript>d", "d"),
        ("<svg><title/><desc/><style/>a<desc>b<i>c</i></desc></svg><script/>d</script>e", "ae"),
        ("<svg/><style>a</style><desc>b</desc>", "b"),
        ("<script>'<p></script2>' </ScRiPt >a<style>b", "a"),
        ("<textarea>\n use <b>bold</b>\n&amp; more</textarea>y", "use <b>bold</b>\n& more\ny"),
        ("x<xmp> <i>it</i> &amp;</xmp>y<plaintext><p>z", "x\n\n <i>it</i> &amp;\n\ny\n\n<p>z"),
        ("<pre>\n\n a\r\n\tb</pre> c", "a\n\tb\n\nc"),
        ("<h1>T</h1>" + "<!-- <div> -->" * 600 + "w<span>or</span>d", "T\n\nword"),
        ("<td>a</td><td>b</td></tr><tr><td>c", "a\tb\nc"),
    ],
)
def test_markup_of_all_sorts(page, text):
    assert read(f"<body>{page}").text.strip() == text.strip()


def test_elements_that_end_in_their_own_tag_take_no_structure():
    page = (
        '<svg><path d=""/></svg>' * 300 + "<noscript>enable js</noscript><template>tpl</template><h2>Head</h2>"
        "<p>One <span>half</span>way w<span>or</span>d</p><table><tr><td>a</td><td>b</td></tr></table><pre>x\n  y</pre>"
    )
    document = read(page)
    assert document.text == "Head\n\nOne halfway word\n\na\tb\n\nx\n  y"
    assert document.headings == (0,)


def test_a_title_may_speak_of_tags():
    assert read("<title>How does <b> work, &amp; <a>?</title><p>x").title == "How does <b> work, & <a>?"


@pytest.mark.extra
@given(st.data())
def test_pages_are_read_as_a_parser_builds_them(data):
    """Where a page is well-formed: else a tree can have some text in another place."""
    lexbor = pytest.importorskip("selectolax.lexbor")
    names = st.sampled_from(["div", "b", "em", "span", "section", "h2", "pre", "blockquote", "a", "textarea"])
    words = st.sampled_from(
        ["one", "two &amp; three", " 4 ", "&lt;b>", "<!-- no -->", "<br>", "<img alt='>'>", "&notit;"]
    )
    inside = st.recursive(
        st.lists(words, max_size=3).map("".join),
        lambda inner: st.tuples(names, st.lists(inner, max_size=3)).map(
            lambda drawn: f"<{drawn[0]} class=x data-y='/'>{''.join(drawn[1])}</{drawn[0]}>"
        ),
        max_leaves=12,
    )
    page = data.draw(inside)
    parser = lexbor.LexborHTMLParser(f"<!doctype html><title>t</title><body>w {page}")
    assert "".join(read(f"<body>w {page}").text.split()) == "".join(parser.body.text().split())


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
        "<div " + " ".join(f"a{number}" for number in range(160_000)) + ">x",
        "<svg>" + "<td>" * 100_000 + "</tr>" * 100_000,
        "<p\xa0>" * 100_000 + "</q>" * 100_000,
        "<a b='" * 100_000,
        "<!doctype" * 100_000,
        "</textarea" * 100_000 + "<textarea>" * 100_000,
        "<template>" * 100_000 + "</template>" * 100_000 + "x",
    ],
)
def test_hostile_pages_take_no_long_time(page):
    start = time.process_time()
    assert "x" in read("x" + page).text
    assert time.process_time() - start < 10
