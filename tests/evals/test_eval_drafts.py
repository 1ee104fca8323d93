"""Drafts: what a run is expected to go on with is read along, and no answer depends on it."""

from __future__ import annotations

import json

import pytest

from mlxquant.builds.read.build import read_build
from mlxquant.errors import UsageError
from mlxquant.evals.asking import Asking, Sampling
from mlxquant.evals.drafts import PromptCache, ReadAhead, first_answers, prompts_within
from mlxquant.evals.loaded import LoadedModel
from mlxquant.evals.run import EvalSettings
from mlxquant.evals.store import make_deep_task
from mlxquant.evals.store.model import write_store_moe
from mlxquant.evals.store.scoring import Judge
from mlxquant.evals.suites.tool_loop import ToolLoop
from mlxquant.plan.recipe.recipe import load_recipe
from tests.support.builds import build

END = 9


def ahead(tokens, start, likeliest):
    return ReadAhead(tokens, start, likeliest, PromptCache([], None), PromptCache([], None), [], {})


def test_an_answer_is_what_was_read_up_to_where_the_model_would_have_said_something_else():
    tokens = [1, 2, 3, 4, 5, END, 7, 8]  # read from 2 on: what comes after 3, after 4, …
    assert ahead(tokens, 2, [4, 5, END, 0, 0, 0]).answer(3, {END}) == ([4, 5, END], True)
    assert ahead(tokens, 2, [4, 6, END, 0, 0, 0]).answer(3, {END}) == ([4], False)
    assert ahead(tokens, 2, [0, 5, END, 0, 0, 0]).answer(3, {END}) == ([], False)


def test_what_was_read_covers_prompts_that_are_its_beginning():
    read = ahead([1, 2, 3, 4, 5], 2, [4, 5, 6])
    assert read.covers([1, 2, 3]) and read.covers([1, 2, 3, 4])
    assert not read.covers([1, 2]), "the likeliest token after these is not known"
    assert not read.covers([1, 2, 9]) and not read.covers([1, 2, 3, 4, 5])


def test_answers_are_found_where_each_begins_alike_and_nowhere_else():
    roles = ["assistant", "tool", "assistant"]
    assert prompts_within(roles, [1, 8, 8, 2, 3, 8, 8, 4], [1, 8, 8], [1]) == [3, 7]
    assert prompts_within(roles, [1, 8, 8, 2, 3, 4], [1, 8, 8], [1]) == [], "one begins otherwise"
    assert prompts_within(roles, [1, 2, 3], [1], [1]) == [], "nothing marks an answer"


def test_a_draft_is_cut_after_the_answers_asked_for():
    messages = [{"role": role} for role in ("assistant", "tool", "assistant", "user", "assistant")]
    assert len(list(first_answers(lambda: messages, 2))) == 3
    assert list(first_answers(lambda: messages, 9)) == messages


def test_the_rest_of_a_task_is_what_is_outstanding_and_all_later_requests():
    task = make_deep_task(1_000_000, 6)
    with Judge(task) as judge:
        assert [turn[0] for turn in judge.rest()] == [turn.user for turn in task.turns]
        judge.user()
        first = next(judge.rest())
        assert first[0] == "" and [call for call, _ in first[1]] == list(task.turns[0].calls)
        call = first[1][0][0]
        judge.call(call.name, json.dumps(call.arguments))
        assert len(next(judge.rest())[1]) == len(task.turns[0].calls) - 1
        judge.reply("Done.")
        assert [turn[0] for turn in judge.rest()] == [turn.user for turn in task.turns[1:]]


def test_drafts_with_a_temperature_are_refused():
    with pytest.raises(UsageError, match="--draft"):
        EvalSettings(Sampling(temperature=0.7, draft=True))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 3])
def test_a_build_plays_the_same_loop_with_drafts_and_without(bits, tmp_path):
    write_store_moe(tmp_path / "source")
    recipe = load_recipe("gates-8bit", bits=bits, group_size=64) if bits else "none"
    build(tmp_path / "source", tmp_path / "b", recipe, dtype="float32", audit=False)
    side = LoadedModel(read_build(tmp_path / "b"), "b")
    side.open()
    suite = ToolLoop((12,), 1, max_tokens=48)
    (item,) = suite.items()
    played, requests = [], []
    for draft in (False, True):
        asking = Asking(side, item, int(draft), Sampling(draft=draft))
        played.append(suite.play(item, asking))
        requests.append([(r["input_tokens"], r["output_tokens"]) for r in asking.served])
    side.close()
    assert played[0] == played[1] and requests[0] == requests[1]
    assert len(played[0].calls) == 12
