"""Rows in, rows and the audit page out."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffembed.errors import ConfigError, DataError
from diffembed.mining import report
from diffembed.mining.mine import Account, Mined, mine
from diffembed.mining.pool import Passage
from diffembed.mining.reading import read_corpus, read_examples
from diffembed.mining.rules import CHOSEN, MARGIN, SPARE, Rules
from tests.mining.conftest import Scattered, example

FULL = example(
    "why?\nreally",
    "because",
    "since",
    negatives=("so",),
    instruction="",
    topic="t",
    chunks=("because", "and"),
)


def write(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def mined(*given) -> Mined:
    return mine(given, embedder=Scattered(), rules=Rules(negatives=2, relative_margin=None))


# Rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_rows_may_be_short_and_their_source_is_the_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"query": "q", "positive": "p"}, "", {"query": "r", "positives": ["s"], "id": 3})
    found = list(read_examples(path))
    assert found == [
        replace(example("q", "p"), source="a", kind="query->passage"),
        replace(example("r", "s"), source="a", kind="query->passage"),
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    one, two = FULL, example("how", "so it is é\u2028")
    result = mined(one, two)
    report.write(tmp_path / "m.jsonl", result, {"negatives": 2})
    assert list(read_examples(tmp_path / "m.jsonl")) == [replace(each, scores=None) for each in result.examples]
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows[0]["scores"] == list(result.examples[0].scores or ())
    assert {"query", "positives", "negatives", "scores", "source", "kind"} == rows[1].keys()
    assert rows[0].keys() - rows[1].keys() == {"instruction", "topic", "chunks"}


def test_a_row_without_negatives_has_no_such_key() -> None:
    [alone] = mined(example("q", "p")).examples
    row = report.as_row(alone)
    assert "negatives" not in row and len(row["scores"]) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": "q"}, "there is no positive"),
        ({"positives": ["p"]}, "there is no `query`"),
        ({"query": " ", "positives": ["p"]}, "`query` is blank"),
        ({"query": "q", "positives": ["p", " "]}, "`positives` has a blank text"),
        ({"query": "q", "positives": [1]}, "`positives` must be a text or a list of texts"),
        ({"query": "q", "positives": {"a": 1}}, "`positives` must be a text or a list of texts"),
        ({"query": "q", "positives": ["p"], "positive": "p"}, "`positives` and `positive` mean the same"),
        ({"query": "q", "positives": ["p"], "negatives": ["p"]}, "is a positive too"),
        ({"query": "q", "positives": ["p"], "negativs": ["n"]}, "`negativs` is no key"),
        ({"query": "q", "positives": ["p"], "topic": 3}, "`topic` must be a text"),
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, bad, message: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"query": "q", "positive": "p"}, bad)
    with pytest.raises(DataError, match=message) as caught:
        list(read_examples(path))
    assert caught.value.message.startswith(f"{path}:2")


def test_a_corpus_is_in_beirs_form(tmp_path: Path) -> None:
    good = write(tmp_path / "corpus.jsonl", {"_id": "1", "title": "T", "text": "x"}, {"text": "y", "title": None})
    assert list(read_corpus(good)) == [Passage("x", "T"), Passage("y")]
    with pytest.raises(DataError, match=r"bad\.jsonl:1 has no text `text`"):
        list(read_corpus(write(tmp_path / "bad.jsonl", {"_id": "1", "title": "T"})))


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl.gz", *({"query": f"q{i}", "positive": f"p{i}"} for i in range(2_000)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz is damaged after line"):
        list(read_examples(path))


# The output


def test_an_output_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    out, data = tmp_path / "m.jsonl", write(tmp_path / "d.jsonl", {})
    report.check_out(out, inputs=[data], force=False)
    report.audit_path(out).write_text("read me")
    with pytest.raises(ConfigError, match=r"m\.jsonl\.audit\.md is there already") as caught:
        report.check_out(out, inputs=[data], force=False)
    assert "--force" in caught.value.hint
    report.check_out(out, inputs=[data], force=True)
    for path, error, message in [
        (data, ConfigError, "is read by this very run"),
        (tmp_path, ConfigError, "is there already"),
        (tmp_path / "none" / "m.jsonl", DataError, "there is no folder"),
    ]:
        with pytest.raises(error, match=message):
            report.check_out(path, inputs=[data], force=True)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write(tmp_path / "m.jsonl", "old")
    monkeypatch.setattr(report, "as_row", lambda example: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write(out, mined(FULL), {"negatives": 2})
    assert out.read_text() == "old\n"
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", "m.jsonl.audit.md"}


# The page and the account


def test_the_page_shows_positives_negatives_scores_and_ranks() -> None:
    class Angles(Scattered):
        def vector(self, text: str, role: str):
            value = float(text.split()[0]) if role == "document" else 1.0
            return [value, (1 - value**2) ** 0.5]

    corpus = ["0.9 above", "0.79 near\x1b[31m", "0.7 ``` " + "word " * 200, "0.6 less", "0.5 rest"]
    given = [example("how\nfar?", "0.8 right", "0.95 too", instruction="find", topic="t")]
    result = mine(given, corpus, embedder=Angles(), rules=Rules(negatives=2))
    page = "\n".join(report.audit("m.jsonl", result, {"negatives": 2, "model": "x", "veto": None}))
    lines = page.splitlines()
    assert lines[0] == "# Audit of m.jsonl" and "negatives 2, model x" in page and "veto" not in lines[7]
    begin = lines.index("````text")
    assert lines[-1] == "````" and lines[begin - 2] == "## Example 1"
    shown = [" ".join(line.split()) for line in lines[begin + 1 : -1]]
    assert shown[:7] == [
        "query how far?",
        "instruction find",
        "topic t",
        "positive (1) 0.8000 0.8 right",
        "positive (0) 0.9500 0.95 too",
        "margin 1. 0.9000 0.9 above",
        "margin 2. 0.7900 0.79 near\ufffd[31m",
    ]
    assert shown[7].startswith("negative 3. 0.7000 0.7 ``` word word") and shown[-2].endswith("…")
    assert shown[-1] == "negative 4. 0.6000 0.6 less"
    assert max(map(len, lines[begin:])) <= 120


def test_the_sample_is_evenly_drawn() -> None:
    given = [example(f"q{number}", f"p{number}") for number in range(101)]
    result = mine(given, embedder=Scattered(), num_audited=5)
    assert [each.number for each in result.audit] == [0, 25, 50, 75, 100]
    assert [each.example for each in result.audit] == [result.examples[number] for number in (0, 25, 50, 75, 100)]
    assert len(mine(given[:3], embedder=Scattered()).audit) == 3


def test_the_account_says_who_got_too_few_and_why() -> None:
    account = Account(
        examples=1_200,
        candidates=5_000,
        duplicates=7,
        blank=0,
        known=1_300,
        verdicts={CHOSEN: 8_000, MARGIN: 90, SPARE: 30_000},
        short={MARGIN: 60, "too few texts found": 3},
        without=2,
        outscored=40,
    )
    assert list(report.summary(account, 7)) == [
        "1,200 queries, 5,000 candidates, 7 duplicates left out",
        "8,000 negatives; 1,300 known answers passed over, 90 margin, 30,000 not needed",
        "for 40 queries a text scores above a positive: an unmarked answer, or a weak model",
        "63 queries got fewer than 7 negatives, 2 of them none; what took most of their candidates: "
        "60 margin, 3 too few texts found",
    ]
    assert list(report.summary(replace(account, short={}), 7))[-1] == "every query got 7 negatives"
