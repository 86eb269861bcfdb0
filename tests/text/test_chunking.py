"""Chunks and sentences: nothing lost, the strongest break taken (by brute force), headings in their place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import ConfigError
from diffembed.text.chunking import cut_chunks
from diffembed.text.sentences import LONGEST_SENTENCE, sentences

TOKEN = re.compile(r"\n+| ?\w+| ?[^\s\w]+|\s")


def tokens(text: str) -> list[int]:
    """Where the tokens of a simple tokenizer begin: words and marks with their leading space, line ends, spaces."""
    return [match.start() for match in TOKEN.finditer(text)]


def chunks(text: str, size: int, headings=()) -> list[str]:
    return [text[start:end] for start, end in cut_chunks(text, tokens(text), chunk_tokens=size, headings=headings)]


def heads(text: str) -> list[int]:
    return [match.start() for match in re.finditer(r"^#+ ", text, re.MULTILINE)]


# Nothing is lost


@given(
    st.text(st.sampled_from("ab .,!。\n\r\t 🙂é#="), max_size=80),
    st.integers(8, 20),
    st.data(),
)
def test_chunks_are_the_text_and_hold_so_many_tokens(text, size, data) -> None:
    offsets = st.integers(0, max(0, len(text) - 1))
    starts = sorted(data.draw(st.lists(offsets, max_size=120))) if text else []
    headings = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = cut_chunks(text, starts, chunk_tokens=size, headings=headings)
    assert [start for start, _ in spans] + [len(text)] == [0] + [end for _, end in spans]
    assert all(start < end for start, end in spans)
    assert {start for start, _ in spans[1:]} <= set(starts), "a chunk begins with a token"
    for start, end in spans:
        inside = [each for each in starts if start <= each < end]
        assert len(inside) <= size or len(set(inside)) == 1, "only a single character may have more tokens"


def test_characters_before_the_first_token_and_texts_without_one() -> None:
    assert cut_chunks("", [], chunk_tokens=8) == []
    assert cut_chunks("abc", [], chunk_tokens=8) == [(0, 3)]
    assert cut_chunks("  " + "a" * 16, range(2, 18), chunk_tokens=8) == [(0, 10), (10, 18)]


def test_a_character_with_many_tokens_is_never_cut() -> None:
    assert cut_chunks("axb", [0] + [1] * 12 + [2], chunk_tokens=8) == [(0, 1), (1, 2), (2, 3)]


# The strongest break, by brute force


def strength(text: str, place: int) -> int:
    """Of a text whose sentences end in a full stop."""
    before, after = text[:place], text[place:]
    space_before = before[len(before.rstrip()) :]
    space_after = after[: len(after) - len(after.lstrip())]
    lines = (space_before + space_after).count("\n")
    if lines and (before.endswith("\n") or "\n" not in space_before):
        return (6 if lines > 1 else 4) - ("\n" in space_after)
    if lines or not before.rstrip().endswith("."):
        return 1 if space_before + space_after else 0
    return 2


def expected_cuts(text: str, size: int) -> list[int]:
    starts = tokens(text)
    begin, cuts = 0, []
    while len(starts) - begin > size:
        left = len(starts) - begin
        fewest, most, wanted = size // 2, size, size
        if left <= size + size // 2:
            tiny = -(-size // 4)
            fewest, most, wanted = max(tiny, left - size), min(size, left - tiny), left // 2
        reach = range(begin + fewest, begin + most + 1)
        best = max(strength(text, starts[each]) for each in reach)
        equals = [each for each in reach if strength(text, starts[each]) == best]
        begin = min(equals, key=lambda each: (abs(each - begin - wanted), each))
        cuts.append(starts[begin])
    return cuts


@given(
    st.lists(st.sampled_from(["Aa", "Bb,", "Cc.", "Dddd.", "\n", "\n\n", " \n  ", "\n    ", "(X)"]), max_size=120),
    st.integers(8, 30),
)
def test_the_strongest_break_in_reach(pieces, size) -> None:
    text = " ".join(pieces).replace("\n ", "\n")
    assert [start for start, _ in cut_chunks(text, tokens(text), chunk_tokens=size)][1:] == expected_cuts(text, size)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a b c d e f\n\ng h\ni j. K l m n o p q r s t", "a b c d e f\n\n"),
        ("a b c d e f g h\ni j. K l m n o p q r s t", "a b c d e f g h\n"),
        ("a b c d e f g h i j. K l m n o p q r s t", "a b c d e f g h i j."),
        ("a b c d e f g h i j k l m n o p q r s t", "a b c d e f g h i j k l"),
        ("a b c d e f g\r\nh\r\ni j k l m n o p q r s t", "a b c d e f g\r\nh\r\n"),
    ],
)
def test_breaks_by_hand(text, first) -> None:
    assert chunks(text, 12)[0] == first


def test_cjk_marks_end_a_sentence_for_each_character() -> None:
    text = "今天天气很好。我们去公园！「好吗？」他说明天再去吧朋友们"
    spans = cut_chunks(text, range(len(text)), chunk_tokens=14)
    assert [text[start:end] for start, end in spans] == [
        "今天天气很好。我们去公园！",
        "「好吗？」",
        "他说明天再去吧朋友们",
    ]


def test_indentation_stays_with_its_line() -> None:
    text = "if a:\n" + "    b = c\n" * 9
    assert all(chunk.startswith(("if", "    b")) for chunk in chunks(text, 24))


@given(st.integers(8, 64), st.integers(1, 400))
def test_no_tiny_piece_is_left(size, count) -> None:
    text = "word" + " word" * (count - 1)
    found = [len(tokens(chunk)) for chunk in chunks(text, size)]
    assert sum(found) == count
    if count > size:
        assert min(found) >= size / 4
        assert all(each == size for each in found[:-2])
        assert abs(found[-1] - found[-2]) <= 1 or found[-2] == size


# Headings


def section(title: str, words: int) -> str:
    return f"# {title}\n\n" + " ".join(["word"] * words) + "\n\n"


def test_a_heading_begins_a_chunk() -> None:
    paragraphs = "word word word word\n\n" * 3
    parts = [section(name, 12) + paragraphs for name in ("One", "Two", "Three")]
    text = "".join(parts)
    assert chunks(text, 64, heads(text)) == parts
    assert chunks(text, 64)[0] == parts[0] + section("Two", 12), "without headings the latest paragraph"


def test_small_sections_share_a_chunk() -> None:
    text = "".join(section(name, 3) for name in "ABCDEF")  # 7 tokens each, a quarter is 16
    assert chunks(text, 64, heads(text)) == [
        "".join(section(name, 3) for name in "ABC"),
        "".join(section(name, 3) for name in "DEF"),
    ]


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(0, 9),
    st.integers(16, 64),
)
def test_headings_begin_chunks_and_never_end_them(parts, preface, size) -> None:
    text = "word " * preface + "\n"
    for number, words in parts:
        text += "# H\n\n" * (number - 1) + section("H", words)
    found = cut_chunks(text, tokens(text), chunk_tokens=size, headings=heads(text))
    assert "".join(text[start:end] for start, end in found) == text
    for start, end in found:
        chunk = text[start:end]
        assert not re.search(r"# H\s*\Z", chunk), "a heading goes with what follows"
        for heading in re.finditer("(?<=word\n\n)# H", chunk):
            assert len(tokens(chunk[: heading.start()])) < size / 4, "what is before it in the chunk is tiny"


@pytest.mark.parametrize(
    "heading",
    ["Title\n=====\n\n", "=====\nTitle\n=====\n\n", "# Title\n## More\n\n", "    def title():\n", "Title\n\n\n\n"],
)
def test_what_belongs_to_a_heading(heading) -> None:
    body = "Words of the text under it. " * 3  # the strongest break is that behind the heading
    for words in range(5):  # from nothing to tiny
        before = " ".join(["word"] * words) + "\n\n" if words else ""
        text = before + heading + body
        at = [len(before) + each.start() for each in re.finditer(r"def|(?<!\w)[#=]+(?= |\nT)|^T", heading)]
        first, *_ = chunks(text, 24, at)
        assert first.startswith(before + heading + "Words of the"), "neither alone nor at an end"
    text = "word " * 9 + "\n" + heading + body
    at = text.index("def") if "def" in text else text.index(heading)
    assert chunks(text, 24, [at])[:1] == ["word " * 9 + "\n"], "its indentation belongs to it"


def test_a_heading_without_end_is_cut_like_other_text() -> None:
    text = "# " + "word " * 200
    assert chunks(text, 16, [0]) == chunks(text, 16)
    rows = "# H\n" * 200
    assert max(len(tokens(chunk)) for chunk in chunks(rows, 16, heads(rows))) <= 16


def test_a_heading_inside_a_token_counts_from_the_token() -> None:
    text = "word " * 9 + "title words " * 9
    assert chunks(text, 16, [text.index("title")])[0] == ("word " * 9).rstrip()


# Size


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("\n" * 1_000_000, ()),
        ("." * 500_000 + "x", ()),
        (" " * 500_000 + "x", ()),
        ("word " * 200_000, ()),
        ("=" * 50_000 + "\n", range(50_000)),
    ],
    ids=["lines", "stops", "spaces", "words", "headings"],
)
def test_time_grows_with_the_text_and_not_with_its_square(text, headings) -> None:
    spans = cut_chunks(text, range(len(text)), chunk_tokens=256, headings=headings)
    assert spans[0][0] == 0 and spans[-1][1] == len(text)
    assert max(end - start for start, end in spans) <= 256
    found = sentences(text)
    assert sum(end - start for start, end in found) >= len(text.split())


# What is refused


@pytest.mark.parametrize("size", [7, 0, -1, 8.0, True, None, "8"])
def test_a_size_that_there_is_none_of(size) -> None:
    with pytest.raises(ConfigError, match="chunk_tokens is") as caught:
        cut_chunks("a", [0], chunk_tokens=size)
    assert "8" in caught.value.hint


@pytest.mark.parametrize("headings", [[-1], [2, 1], [4]])
def test_headings_that_are_none_of_the_text(headings) -> None:
    with pytest.raises(ConfigError, match="text of 3 characters") as caught:
        cut_chunks("abc", [0], chunk_tokens=8, headings=headings)
    assert caught.value.hint


@pytest.mark.parametrize("starts", [[-1], [1, 0], [3]])
def test_tokens_outside_the_text_are_a_bug_of_the_caller(starts) -> None:
    with pytest.raises(ValueError, match="ascending offsets"):
        cut_chunks("abc", starts, chunk_tokens=8)


# Sentences


@pytest.mark.parametrize(
    "expected",
    [
        ["One sentence.", "Another one!", "A third?", "And no end"],
        ["Use a list, e.g. of words.", "See i.e. this."],
        ["Dr. Smith and Mrs. Jones met Prof. Lee.", "They talked."],
        ["Pi is 3.14 and v1.2 is out.", "See Fig. 3 and p. 12 on Jan. 5."],
        ["J. R. Smith of the U.S. Army wrote it.", "It is long."],
        ["He said no.", "She said yes."],
        ["It stopped... and went on.", "Then it stopped...", "For good."],
        ['"Is it so?" he asked.', '"It is."', "(Nobody spoke.)", "**Bold.**", "End."],
        ["It was built in 1999.", "Then it fell."],
        ["What?!", "No way."],
        ["今天天气很好。", "我们去公园！", "「好吗？」", "他说。"],
        ["यह एक वाक्य है।", "यह दूसरा है।"],
    ],
)
def test_sentences_by_hand(expected) -> None:
    is_cjk = not any(char.isascii() for sentence in expected for char in sentence)
    text = f"  {''.join(expected) if is_cjk else ' '.join(expected)}\n"
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_lines_that_end_a_sentence_and_lines_that_do_not() -> None:
    text = (
        "A title without a stop\n\nA paragraph that is\nwrapped. It goes on\nhere\n"
        "- an item\n- another, which\n  is wrapped\n1. Numbered. With two.\nBehind the list\r\n\r\n"
        "# Heading\nText under it\n| a | b |\n| c | d |\n"
    )
    assert [text[start:end] for start, end in sentences(text)] == [
        "A title without a stop",
        "A paragraph that is\nwrapped.",
        "It goes on\nhere",
        "- an item",
        "- another, which\n  is wrapped",
        "1. Numbered.",
        "With two.",
        "Behind the list",
        "# Heading",
        "Text under it",
        "| a | b |",
        "| c | d |",
    ]


@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(st.sampled_from(["Aa", "e.g.", "b,", "Cc.", "x" * 150, "。", "\n", "\n\n", "- ", "!?)", " "])).map(
            "".join
        ),
        st.lists(st.sampled_from(["Aa", "b;", "c" * 90, "d" * 500])).map(" ".join),
    )
)
def test_sentences_cover_what_is_no_space(text) -> None:
    spans = sentences(text)
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    for start, end in spans:
        assert text[start:end] == text[start:end].strip() != ""
        assert end - start <= LONGEST_SENTENCE


def test_where_a_long_sentence_is_cut() -> None:
    clause = "word " * 60 + "word, "
    text = (clause * 3).strip()
    found = [text[start:end] for start, end in sentences(text)]
    assert found == [clause.strip()] * 3
    text = ("word " * 200).strip()
    assert all(text[start:end].split() == ["word"] * ((end - start + 1) // 5) for start, end in sentences(text))
