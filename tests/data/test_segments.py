"""Token stores and batches: nothing lost, nothing seen twice in a pass, the same for the same step."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.segments import MIN_SEGMENT_TOKENS, SegmentBatches, TokenStore, _cut
from diffembed.errors import DataError
from diffembed.text.tokenizer import Tokenizer
from tests.examples import examples

EOS = 1


def store_of(lengths) -> TokenStore:
    """Documents whose tokens count up, so that every token names its place."""
    total = sum(lengths)
    return TokenStore(np.arange(total, dtype=np.uint16), np.cumsum(np.array(lengths, np.int64)))


def batches_of(store, *, lengths=(32,), shares=(1.0,), tokens_per_batch=256, num_batches=200, seed=0) -> SegmentBatches:
    return SegmentBatches(
        store, lengths=lengths, shares=shares, tokens_per_batch=tokens_per_batch, num_batches=num_batches,
        eos_id=EOS, seed=seed,
    )  # fmt: skip


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(1, 100))
def test_cut_covers_each_document_once(lengths, length):
    ends = np.cumsum(np.array(lengths, np.int64))
    pieces = _cut(ends, length)
    least = min(MIN_SEGMENT_TOKENS, length)
    covered = Counter(i for start, end in pieces for i in range(start, end))
    assert max(covered.values(), default=1) == 1
    start = 0
    for n, end in zip(lengths, ends, strict=True):
        lost = [i for i in range(start, end) if i not in covered]
        tail = n % length
        assert len(lost) == (tail if tail < least else 0), "only a short tail may be dropped"
        start = end
    document_of = np.searchsorted(ends, pieces[:, 0], side="right")
    assert (pieces[:, 1] <= ends[document_of]).all(), "a segment crosses documents"


@examples(25)
@given(st.integers(0, 10_000), st.integers(100, 600))
def test_a_pass_sees_every_segment_at_most_once_and_batches_keep_to_their_size(seed, tokens_per_batch):
    store = store_of([20, 40, 700, 33, 90] * 8)
    batches = batches_of(store, tokens_per_batch=tokens_per_batch, seed=seed)
    first, per_pass = batches.queues[0]._num_batches(0)
    assert first == 0 and per_pass > 1
    seen = Counter()
    for number in range(per_pass):
        batch = batches[number]
        assert sum(map(len, batch)) <= tokens_per_batch
        assert all(ids[-1] == EOS and len(ids) <= 32 for ids in batch)
        seen.update(ids[0] for ids in batch)
    assert max(seen.values()) == 1
    longest = 32
    assert sum(seen.values()) >= len(batches.queues[0].pieces) - tokens_per_batch / (MIN_SEGMENT_TOKENS + 1) - longest


def test_a_batch_depends_on_seed_and_number_only():
    store = store_of([500] * 20)
    settings = dict(lengths=(16, 64), shares=(0.5, 0.5), num_batches=300)
    in_order = [batches_of(store, **settings)[i] for i in range(300)]
    fresh = batches_of(store, **settings)
    assert [fresh[i] for i in reversed(range(300))] == in_order[::-1]
    assert [batches_of(store, **settings, seed=1)[i] for i in range(5)] != in_order[:5]


def test_shares_are_kept():
    batches = batches_of(store_of([2000] * 10), lengths=(16, 128), shares=(3, 1), num_batches=2000)
    long = sum(max(map(len, batches[i])) > 16 for i in range(2000))
    assert abs(long / 2000 - 0.25) < 0.04  # 4 standard deviations


def test_later_passes_have_another_order():
    batches = batches_of(store_of([100] * 10), num_batches=50)
    per_pass = batches.queues[0]._num_batches(0)[1]
    assert batches[0] != batches[per_pass]


def test_too_little_text_is_refused():
    with pytest.raises(DataError, match="does not fill one batch"):
        batches_of(store_of([40]))


def test_store_on_disk_equals_store_in_memory(tmp_path):
    texts = [f"text number {i} " * (i % 7) for i in range(1200)]
    tokenizer = Tokenizer.train(texts, 300)
    assert TokenStore.open(tmp_path) is None
    TokenStore.build(tmp_path, texts, tokenizer)
    on_disk, in_memory = TokenStore.open(tmp_path), TokenStore.from_texts(texts, tokenizer)
    assert np.array_equal(on_disk.tokens, in_memory.tokens) and np.array_equal(on_disk.ends, in_memory.ends)
    assert on_disk.tokens[: on_disk.ends[1]].tolist() == sum(tokenizer.encode(texts[:2]), [])


def test_a_folder_without_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="no text"):
        TokenStore.build(tmp_path, ["", ""], Tokenizer.train(["a"], 300))
    assert TokenStore.open(tmp_path) is None
