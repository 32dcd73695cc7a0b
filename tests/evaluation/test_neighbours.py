"""The nearest images are those that comparing with every image finds, however the work is cut into blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightfit.evaluation import neighbours
from rightfit.evaluation.neighbours import nearest


def by_brute_force(queries, features, k):
    """In float64, every similarity sorted, equal ones by index."""
    units = []
    for rows in (queries, features):
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        units.append(rows / np.where(lengths > 0, lengths, 1))
    similarities = (units[0] @ units[1].T).round(6)
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarities, order, 1)


@given(rows=st.integers(1, 90), queries=st.integers(1, 20), k=st.integers(1, 100), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_blocks_of_any_size_find_what_brute_force_finds(rows, queries, k, seed):
    """Features of 0, 1 and 2 in three dimensions: many rows are equal, some are nothing but zeros."""
    generator = np.random.default_rng(seed)
    features = generator.integers(0, 3, (90, 3)).astype(np.float32)
    asked = generator.integers(-1, 3, (20, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "ROWS", rows)
        patch.setattr(neighbours, "QUERIES", queries)
        indices, similarities = nearest(asked, features, k)
    expected, values = by_brute_force(asked, features, k)
    assert indices.shape == (20, min(k, 90))
    assert np.array_equal(indices, expected)
    assert np.abs(similarities - values).max() < 2e-6


def test_length_does_not_count_however_large_or_small():
    features = np.array([[1, 0], [1e30, 1e30], [0, 1e-30]], np.float32)
    indices, similarities = nearest(np.array([[1e-30, 1e-30], [0, 5]], np.float32), features, 2)
    assert indices.tolist() == [[1, 0], [2, 1]]
    assert np.allclose(similarities, [[1, np.sqrt(0.5)], [1, np.sqrt(0.5)]], atol=1e-6)


def test_features_larger_than_memory_are_never_copied_whole(tmp_path):
    """A map is read block by block: NumPy's own allocations stay at a few blocks."""
    import tracemalloc

    features = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float32, (100_000, 64))
    features[:] = (
        np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)[np.arange(100_000) % 1000]
    )
    tracemalloc.start()
    try:
        indices, _ = nearest(features[:8].copy(), features, 3)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert indices.tolist() == [[i, i + 1000, i + 2000] for i in range(8)]
    assert peak < features.nbytes / 2


def test_nothing_is_asked_or_there_is_nothing_to_find():
    assert nearest(np.zeros((0, 4)), np.ones((5, 4)), 3)[0].shape == (0, 0)
    assert nearest(np.ones((2, 4)), np.zeros((0, 4)), 3)[0].shape == (2, 0)
    for queries, features, k in (
        (np.ones((1, 3)), np.ones((1, 4)), 1),
        (np.ones((1, 3)), np.ones((1, 3)), 0),
    ):
        with pytest.raises(ValueError):
            nearest(queries, features, k)
