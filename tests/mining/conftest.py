"""Embedders and an oracle for mining."""

import zlib

import numpy as np
from numpy.typing import NDArray

from diffembed.data.examples import Example
from diffembed.mining.rules import Rules


class Scattered:
    """A random vector for each text. With `whole` its three components are -1, 0 or 1: many scores are equal."""

    def __init__(self, dims: int = 16, seed: int = 0, whole: bool = False) -> None:
        self.dims, self.seed, self.whole = dims, seed, whole
        self.asked: list[str] = []

    def encode_query(self, texts: list[str], *, instruction: str | None = None) -> NDArray[np.float32]:
        return np.stack([self.vector(text, instruction or "query") for text in texts])

    def encode_document(self, texts: list[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.stack([self.vector(text, "document") for text in texts])

    def vector(self, text: str, role: str) -> NDArray[np.float32]:
        generator = np.random.default_rng([self.seed, zlib.crc32(f"{role} {text}".encode())])
        if self.whole:
            vector = generator.integers(-1, 2, size=3).astype(np.float32)
            return vector if vector.any() else np.float32([1, 0, 0])
        return generator.normal(size=self.dims).astype(np.float32)


def same(text: str) -> str:
    """What makes texts equal, said another way than by fingerprints."""
    return " ".join(text.casefold().split())


def example(query: str, *positives: str, **others) -> Example:
    return Example(query=query, positives=positives, source="test", kind="query->passage", **others)


def cosine(embedder, query: str, text: str, instruction: str | None = None) -> float:
    keywords = {} if instruction is None else {"instruction": instruction}
    [one] = np.asarray(embedder.encode_query([query], **keywords), np.float64)
    [other] = np.asarray(embedder.encode_document([text]), np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def known(examples: list[Example], of: Example) -> set[str]:
    """What must not become a negative of an example."""
    texts = {same(of.query)}
    for each in examples:
        if same(each.query) == same(of.query) or (of.topic is not None and each.topic == of.topic):
            texts |= {same(text) for text in each.positives}
    return texts


def by_brute_force(examples: list[Example], candidates: list[str], embedder, rules: Rules) -> list[list[str]]:
    """Negatives by the book, best first: every score on its own, and one sort. Scores closer than 1e-9 are equal."""
    found = []
    for each in examples:
        hidden = known(examples, each)
        left = [text for text in candidates if same(text) not in hidden]
        score = {text: round(cosine(embedder, each.query, text, each.instruction), 6) for text in left}
        ranked = sorted(left, key=lambda text: -score[text])[rules.skip : rules.depth]
        positive = min(cosine(embedder, each.query, text, each.instruction) for text in each.positives)
        bar = round(rules.bar(positive), 6) if rules.bar(positive) < np.inf else np.inf
        highest = np.inf if rules.max_score is None else rules.max_score
        found.append([text for text in ranked if score[text] <= min(bar, highest)][: rules.negatives])
    return found
