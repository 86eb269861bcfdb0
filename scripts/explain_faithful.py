"""Do the shares of `Embedder.explain` rank tokens as leaving them out does? A table of rank correlations.

    python scripts/explain_faithful.py --task data/scifact --limit 100 --model builtin

For queries of the task and the document that is judged most relevant to each, every token of a text (or as many as
--tokens, drawn) is left out by itself, the rest is embedded anew, and the drop of the score is compared with the
token's share: Spearman's rank correlation within the text, then the mean over pairs with a bootstrap interval. The
length of a token in characters and a random order do the same beside it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffembed.embedder import Embedder, TokenShare
from diffembed.errors import ConfigError, DataError, DiffembedError
from diffembed.evaluation.statistics import paired_bootstrap
from diffembed.evaluation.tasks import Task, read_task
from diffembed.text.instructions import ROLES, Role

SHARE, LENGTH, RANDOM = ORDERS = ("share", "length", "random")
LEAST_TOKENS = 3
"""Of a text: two have only two orders."""

Pair = tuple[str, str | None, str]
"""Query, its instruction, document."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, type=Path, metavar="FOLDER", help="in BEIR form")
    parser.add_argument("--model", default="builtin", metavar="M")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="pairs, drawn")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of each text that are left out in turn")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn")
    options = parser.parse_args(arguments)
    try:
        if options.limit < 1 or options.tokens < LEAST_TOKENS:
            raise ConfigError(
                f"can't measure {options.limit} pairs with {options.tokens} tokens",
                hint=f"at least 1 pair and {LEAST_TOKENS} tokens",
            )
        rng = np.random.default_rng(options.seed)
        task = read_task(options.task)
        pairs = draw_pairs(task, options.limit, rng)
        embedder = Embedder.load(options.model, dtype="float32")  # the drop for one token of many is small
        found: dict[Role, list[dict[str, float]]] = {role: [] for role in ROLES}
        for number, pair in enumerate(pairs, start=1):
            for role in ROLES:
                if correlations := correlate(embedder, pair, role, options.tokens, rng):
                    found[role].append(correlations)
            print(f"{number} of {len(pairs)} pairs", file=sys.stderr, end="\r")
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(file=sys.stderr)
    print(f"{options.model} on {task.name}: {len(pairs)} pairs, up to {options.tokens} tokens a text\n")
    print(markdown(found, options.seed))
    return 0


def draw_pairs(task: Task, limit: int, rng: np.random.Generator) -> list[Pair]:
    """Pairs of a query and the document that is most relevant to it, in the order of the task.

    Raises:
        DataError: There is none.
    """
    documents = dict(zip(task.document_ids, task.documents, strict=True))
    pairs = []
    for key, query, instruction in zip(task.query_ids, task.queries, task.instructions, strict=True):
        judged = {
            each: value
            for each, value in task.qrels[key].items()
            if value > 0 and each in documents and each not in task.excluded.get(key, ())
        }
        if judged:
            pairs.append((query, instruction, documents[max(judged, key=lambda each: judged[each])]))
    if not pairs:
        raise DataError(f"{task.name}: no query has a relevant document", hint="relevance must be above 0")
    chosen = rng.permutation(len(pairs))[:limit]
    return [pairs[number] for number in sorted(chosen)]


def correlate(
    embedder: Embedder, pair: Pair, role: Role, num_tokens: int, rng: np.random.Generator
) -> dict[str, float]:
    """Correlation of each order with the drops, over the tokens of one text of a pair; none if it has too few."""
    query, instruction, document = pair
    explanation = embedder.explain(query, document, instruction=instruction)
    text, tokens = (query, explanation.query) if role == "query" else (document, explanation.document)
    own = [token for token in tokens if not token.special]
    if len(own) < LEAST_TOKENS:
        return {}
    own = [own[number] for number in sorted(rng.permutation(len(own))[:num_tokens])]
    drops = explanation.score - _scores_without(embedder, pair, role, text, own)
    values = {
        SHARE: [token.share for token in own],
        LENGTH: [token.end - token.start for token in own],
        RANDOM: rng.random(len(own)),
    }
    return {order: spearman(values[order], drops) for order in ORDERS}


def _scores_without(
    embedder: Embedder, pair: Pair, role: Role, text: str, tokens: Sequence[TokenShare]
) -> NDArray[np.float64]:
    """The score that the pair has without the characters of each token."""
    query, instruction, document = pair
    shorter = [text[: token.start] + text[token.end :] for token in tokens]
    if role == "query":
        rows, other = embedder.encode_query(shorter, instruction), embedder.encode_document([document])
    else:
        rows, other = embedder.encode_document(shorter), embedder.encode_query([query], instruction)
    return rows.astype(np.float64) @ other[0].astype(np.float64)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Rank correlation; equal values share the mean of their ranks; 0 where all are equal."""
    ranks = [_ranks(np.asarray(each, np.float64)) for each in (first, second)]
    first_N, second_N = (each - each.mean() for each in ranks)
    scale = np.sqrt((first_N**2).sum() * (second_N**2).sum())
    return float(first_N @ second_N / scale) if scale else 0.0


def _ranks(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places_N]


def markdown(found: Mapping[Role, Sequence[Mapping[str, float]]], seed: int) -> str:
    """The table: each order by itself, then what shares have over the others."""
    lines = [
        "Spearman's correlation with the drop of the score when a token is left out: mean over pairs and 95% interval",
        f"(bootstrap over pairs, 10,000 resamples, seed {seed}).",
        "",
        "| tokens of | order | pairs | mean | low | high |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for role, rows in found.items():
        values = {order: [row[order] for row in rows] for order in ORDERS}
        compared = [(order, [0.0] * len(rows), values[order]) for order in ORDERS]
        compared += [(f"{SHARE} - {other}", values[other], values[SHARE]) for other in (LENGTH, RANDOM)]
        for name, first, second in compared if rows else []:
            each = paired_bootstrap(first, second, seed=seed)
            span = f"{each.difference:+.3f} | {each.low:+.3f} | {each.high:+.3f}"
            lines.append(f"| {role} | {name} | {each.n} | {span} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
