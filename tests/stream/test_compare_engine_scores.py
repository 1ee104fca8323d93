"""Scores of tokens, in float32 on the device, against float64, near and far."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import logsumexp

from mlxquant.stream.scores import joined, positions_at_once, token_scores


def in_float64(r, c, targets):
    """The textbook's definitions."""
    lp, lq = (a.astype(np.float64) - logsumexp(a.astype(np.float64), axis=1, keepdims=True) for a in (r, c))
    at = np.arange(len(targets))
    return -lp[at, targets], -lq[at, targets], (np.exp(lp) * (lp - lq)).sum(axis=1)


def scored(r, c, targets):
    return token_scores(mx.array(r), mx.array(c), mx.array(targets))


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize(("vocabulary", "spread", "shift"), [(100, 2.0, 0.0), (30_000, 3.0, 7.0), (3000, 12.0, -40.0)])
def test_scores_agree_with_float64(vocabulary, spread, shift, noise):
    rng = np.random.default_rng(0)
    r = (spread * rng.standard_normal((12, vocabulary))).astype(np.float32)
    c = (r + noise * rng.standard_normal(r.shape) + shift).astype(np.float32)
    targets = rng.integers(0, vocabulary, 12).astype(np.int32)
    found, (nll_reference, nll, kl) = scored(r, c, targets), in_float64(r, c, targets)
    assert np.allclose(found.kl, kl, rtol=1e-5, atol=1e-6)
    assert np.allclose(found.nll_reference, nll_reference, rtol=0, atol=5e-6)
    assert np.allclose(found.nll, nll, rtol=0, atol=5e-6)
    assert np.allclose(found.p, np.exp(-nll), atol=1e-6)
    assert (found.same_top == (r.argmax(1) == c.argmax(1))).all()


def test_a_tiny_divergence_is_not_lost_in_rounding():
    r, c = np.zeros((1, 2), np.float32), np.array([[0, 0.002]], np.float32)
    assert np.isclose(scored(r, c, np.array([0], np.int32)).kl[0], 5e-7, rtol=1e-3)


def test_equal_logits_diverge_by_nothing_at_all():
    r = np.random.default_rng(1).standard_normal((5, 1000)).astype(np.float32)
    assert not scored(r, r, np.zeros(5, np.int32)).kl.any()


def test_a_shift_of_all_logits_changes_nothing():
    r = np.array([[1, 2, 3, 4]], np.float32)
    assert scored(r, r + np.float32(64), np.array([1], np.int32)).kl[0] < 1e-7


def test_a_candidate_that_is_certain_of_something_else_diverges_finitely():
    r, c = np.zeros((1, 3), np.float32), np.array([[300, 0, -300]], np.float32)
    found = scored(r, c, np.array([2], np.int32))
    assert np.isclose(found.kl[0], 300 - np.log(3), rtol=1e-6)
    assert np.isclose(found.nll[0], 600)


def test_chunks_are_joined_in_order():
    rng = np.random.default_rng(2)
    r, c = (rng.standard_normal((9, 50)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, 50, 9).astype(np.int32)
    whole = scored(r, c, targets)
    parts = joined([scored(r[:4], c[:4], targets[:4]), scored(r[4:], c[4:], targets[4:])])
    assert np.array_equal(whole.kl, parts.kl)
    assert np.array_equal(whole.same_top, parts.same_top)


def test_as_many_positions_are_scored_at_once_as_memory_allows():
    assert positions_at_once(1000) == 256
    assert positions_at_once(248_320) == 67
    assert positions_at_once(10**7) == 16
