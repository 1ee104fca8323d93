"""The deep world: exact numbers of calls, the full world's rules, and nothing in it that a small model cannot learn."""

from __future__ import annotations

import hashlib
from itertools import chain

import pytest

from mlxquant.errors import UsageError
from mlxquant.evals.items import Reply, ToolCall
from mlxquant.evals.store import Call, make_deep_task, transcript
from mlxquant.evals.store.scoring import Judge
from mlxquant.evals.store.tasks import compact
from mlxquant.evals.suites.tool_loop import DEEP, ToolLoop

GOLDEN = "4b681866a59cdf80ed50fed11299c14655b4a981d85b976471e1012bc302ae8a"


def test_tasks_are_to_the_byte_those_that_store_deep_was_trained_on():
    texts = [compact(transcript(make_deep_task(seed, n), system=False)) for seed, n in ((0, 5), (1_000_000, 150))]
    assert hashlib.sha256("".join(texts).encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize("n_calls", [5, 6, 7, 8, 9, 60, 150])
def test_a_task_has_exactly_the_calls_asked_for(n_calls):
    for seed in range(12):
        assert sum(len(turn.calls) for turn in make_deep_task(seed, n_calls).turns) == n_calls


def test_bounds_are_those_of_every_loop():
    with pytest.raises(UsageError, match="5 to 200 calls, not 4"):
        make_deep_task(0, 4)


def test_the_oracle_passes_by_the_full_worlds_rules():
    task = make_deep_task(7, 60)
    with Judge(task) as judge:
        for turn in task.turns:
            assert judge.user() == turn.user
            for call in turn.calls:
                assert judge.call(call.name, compact(call.arguments)).broken_policy is None
            judge.reply(turn.reply)
        assert judge.outcome().passed


def test_nothing_is_picked_by_colour_nobody_has_a_namesake_and_no_order_is_a_strangers():
    turns = [turn for seed in range(20) for turn in make_deep_task(seed, 100).turns]
    assert not {"namesake", "owner", "conditional"} & {each for turn in turns for each in turn.slices}
    assert not any(call.name == "search_items" for turn in turns for call in turn.calls)
    assert 0.15 < sum(turn.refuse for turn in turns) / len(turns) < 0.35


def test_the_suite_plays_its_tasks():
    suite = ToolLoop((5,), 1, name=DEEP)
    (item,) = suite.items()
    task = make_deep_task(item.task["seed"], 5)
    said: list[tuple[Call | str, ...]] = [(*turn.calls, turn.reply) for turn in task.turns]
    steps = chain.from_iterable(said)

    def oracle(messages, **how):
        step = next(steps)
        if isinstance(step, str):
            return Reply(text=step)
        return Reply(tool_calls=(ToolCall(step.name, compact(step.arguments)),))

    assert suite.play(item, oracle).passed
