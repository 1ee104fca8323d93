"""The tool-loop suite against a server that plays the oracle, with faults of every kind at known depths."""

from __future__ import annotations

import pytest

from mlxquant.endpoint.client import parse_server
from mlxquant.evals.asking import Asking, Sampling
from mlxquant.evals.items import CALL_CHECKS
from mlxquant.evals.served import Served
from mlxquant.evals.suites.tool_loop import ToolLoop
from tests.evals.oracle_server import Oracle, serving, tasks_of

TASKS = tasks_of((5, 20), 1)
SUITE = ToolLoop((5, 20), 1)
SHORT, LONG = SUITE.items()


def played(item=SHORT, oracle=None, **more):
    """Play one item; what came of it, and the requests that the server saw."""
    oracle = oracle or Oracle(TASKS, **more)
    with serving(oracle) as url:
        side = Served(parse_server(url, 20), "oracle", "oracle")
        return SUITE.play(item, Asking(side, item, 0, Sampling())), oracle.seen


def wrong_at(depth, kind):
    return lambda task, d: kind if d == depth else None


def test_items_are_always_the_same_and_each_loop_has_a_seed_of_its_own():
    again = ToolLoop((5, 20), 1)
    assert [i.digest() for i in again.items()] == [i.digest() for i in SUITE.items()]
    seeds = [i.task["seed"] for i in ToolLoop((5, 10, 20), 4).items()]
    assert seeds == list(range(1_000_000, 1_000_012))


@pytest.mark.parametrize("item", [SHORT, LONG], ids=lambda item: item.id)
def test_a_faultless_agent_passes_with_every_call_right(item):
    result, seen = played(item)
    assert result.passed and all(result.checks.values()) and result.first_error is None
    assert [c.depth for c in result.calls] == list(range(1, item.task["calls"] + 1))
    assert all(c.right and set(c.checks) == set(CALL_CHECKS) for c in result.calls)
    assert len(seen) == item.task["calls"] + len(next(t for t in TASKS.values() if t.n_calls == result.depth).turns)


def test_calls_that_come_in_pieces_are_as_good():
    assert played(pieces=5)[0].passed


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        ("json", ["valid_json", "valid_schema", "right_tool", "right_arguments", "in_order"]),
        ("text", ["valid_json", "valid_schema", "right_tool", "right_arguments", "in_order"]),
        ("dropped", ["valid_json", "valid_schema", "right_tool", "right_arguments", "in_order"]),
        ("schema", ["valid_schema", "right_tool", "right_arguments", "in_order"]),
    ],
)
def test_a_call_that_cannot_be_run_is_told_at_its_depth_and_may_be_tried_again(kind, failed):
    result, _ = played(fault=wrong_at(3, kind))
    third = result.calls[2]
    assert [check for check in CALL_CHECKS if not third.checks[check]] == failed
    assert third.checks["valid_call"] and third.checks["made"] and third.said
    assert [c.depth for c in result.calls if not c.right] == [3] and result.first_error == 3
    assert result.passed, "the second attempt was right, so the task was done"


def test_a_wrong_read_is_no_right_call_but_harmless():
    result, _ = played(fault=wrong_at(2, "arguments"))
    second = result.calls[1]
    assert second.checks["valid_schema"] and not second.checks["right_arguments"]
    assert result.first_error is None and result.passed


def test_an_answer_in_place_of_a_call_is_no_call_and_the_task_fails():
    result, _ = played(fault=wrong_at(4, "silent"))
    assert not result.passed and result.first_error is not None and result.first_error <= 4
    missed = next(c for c in result.calls if not c.checks["valid_call"])
    assert not any(missed.checks.values()) and "policy_kept" not in missed.checks and missed.said == "no call"
    assert not result.checks["replies_right"]


def test_history_has_what_the_model_wrote_and_ids_of_our_own():
    _, seen = played(fault=wrong_at(2, "text"))
    assert all(body["tools"] and body["messages"][0]["role"] == "system" for body in seen)
    last = seen[-1]["messages"]
    calls = [c for m in last for c in m.get("tool_calls") or []]
    answers = [m["tool_call_id"] for m in last if m["role"] == "tool"]
    assert [c["id"] for c in calls] == answers and len(set(answers)) == len(answers)
    assert answers[0] == "call00001"
    broken = next(i for i, m in enumerate(last) if str(m["content"]).startswith("<tool_call>"))
    assert last[broken]["role"] == "assistant" and "could not be read" in last[broken + 1]["content"]


def test_an_agent_that_never_stops_calling_is_stopped():
    class Endless(Oracle):
        def answer(self, messages):
            return "", [("list_coupons", "{}")], "tool_calls"

    result, seen = played(oracle=Endless(TASKS))
    assert not result.passed
    assert len(seen) < 8 * 5 + 20


def test_several_calls_of_one_answer_are_all_run():
    class Parallel(Oracle):
        def answer(self, messages):
            text, calls, reason = super().answer(messages)
            return text, calls * 2, reason

    result, seen = played(oracle=Parallel(TASKS))
    first = next(i for i, m in enumerate(seen[-1]["messages"]) if m.get("tool_calls"))
    made, *answers = seen[-1]["messages"][first : first + 3]
    assert [a["tool_call_id"] for a in answers] == [c["id"] for c in made["tool_calls"]]
    assert all(c.checks["made"] for c in result.calls)
