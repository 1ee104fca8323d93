"""The engine that all harnesses share: figures of items, and differences between two files' pairs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlxquant.errors import RecordError
from mlxquant.results.figures import differences, measure
from mlxquant.results.items import Item
from mlxquant.results.pairing import check_same_questions, pair


def item(number: int, score: float, *, trial: int = 0, cluster: str | None = None, **others: Any) -> Item:
    name = f"q{number}"
    return Item(name, cluster or name, trial, success=score == 1, parts={"acc": (score, 1.0)}, **others)


def figure(measurements: Any, metric: str, **where: str) -> dict[str, Any]:
    (entry,) = (m for m in measurements if m["metric"] == metric and m.get("slice") == where.get("slice"))
    return dict(entry)


def test_questions_on_one_passage_are_one_cluster() -> None:
    alone = measure([item(i, float(i % 2)) for i in range(40)], {"acc": "score"}, (), 0.95)
    passages = measure(
        [item(i, float(i // 4 % 2), cluster=f"p{i // 4}") for i in range(40)], {"acc": "score"}, (), 0.95
    )
    narrow, wide = figure(alone, "acc"), figure(passages, "acc")
    assert narrow["estimate"] == wide["estimate"] == 0.5
    assert (narrow["clusters"], wide["clusters"]) == (40, 10)
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_every_slice_is_measured_beside_everything() -> None:
    items = [item(i, 1.0, slices=("a",)) for i in range(6)] + [item(i, 0.0, slices=("b",)) for i in range(6, 9)]
    measured = measure(items, {"acc": "score"}, ("a", "b"), 0.95)
    assert [figure(measured, "acc", slice=name)["estimate"] for name in "ab"] == [1.0, 0.0]
    assert figure(measured, "pass")["n"] == 9
    assert figure(measure(items[:6], {"acc": "score"}, ("a",), 0.95), "acc", slice="a")["n"] == 6


def test_trials_of_a_question_give_pass_hat_k_and_one_trial_does_not() -> None:
    twice = [item(i, float(i < 5 or trial), trial=trial) for i in range(10) for trial in range(2)]
    measured = measure(twice, {}, (), 0.95)
    assert figure(measured, "pass_hat_1")["estimate"] == 0.75 and figure(measured, "pass_hat_2")["estimate"] == 0.5
    assert not any(m["metric"].startswith("pass_hat") for m in measure(twice[::2], {}, (), 0.95))


def test_pairs_are_found_by_question_and_trial_and_never_by_position() -> None:
    first = [item(i, 1.0) for i in range(8)]
    second = [item(i, float(i != 3)) for i in reversed(range(2, 10))]
    pairing = pair(first, second)
    assert all(a.id == b.id for a, b in pairing.pairs)
    assert (len(pairing.pairs), pairing.only_baseline, pairing.only_candidate) == (6, ("q0", "q1"), ("q8", "q9"))
    assert pairing.outcomes() == {
        "both_passed": 5, "only_baseline_passed": 1, "only_candidate_passed": 0, "neither_passed": 0, "mcnemar_p": 1.0,
    }  # fmt: skip
    changes = list(differences(pairing.pairs, {"acc": "score"}, (), 0.95))
    assert figure(changes, "acc_difference")["estimate"] == pytest.approx(-1 / 6)
    assert figure(changes, "pass_difference")["n"] == 6


@pytest.mark.parametrize("what", ["prompt", "target"])
def test_one_id_with_another_prompt_or_target_is_an_error_that_names_it(what: str) -> None:
    x: dict[str, Any] = {what: "x"}
    first = [replace(item(i, 1.0), **x) for i in range(3)]
    y: dict[str, Any] = {what: "y"}
    second = [replace(first[0], **y), *first[1:]]
    with pytest.raises(RecordError, match=f"b: another {what} than in a under the id q0 \\(1 of 3"):
        check_same_questions(pair(first, second), ("a", "b"))
    check_same_questions(pair(first, [item(i, 1.0) for i in range(3)]), ("a", "b"))
