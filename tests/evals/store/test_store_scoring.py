"""The store's judge: the oracle is all right, each mistake is caught and named, and what harms nothing is none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.evals.store import Store, make_task
from mlxquant.evals.store.scoring import Judge, tells
from mlxquant.evals.store.tasks import compact
from mlxquant.evals.store.tools import BY_NAME

SEEDS = st.integers(0, 2_000_000)
few = settings(max_examples=10, deadline=None)


def play(judge, turn, *, replacing=None, dropping=(), reply=None):
    """Play a turn as the oracle does, with calls (by their place) replaced or dropped; return the verdicts."""
    verdicts = []
    for place, call in enumerate(turn.calls):
        if place not in dropping:
            name, arguments = (replacing or {}).get(place, (call.name, call.arguments))
            raw = arguments if isinstance(arguments, str) else compact(arguments)
            verdicts.append(judge.call(name, raw))
    return [*verdicts, judge.reply(turn.reply if reply is None else reply)]


def play_rest(judge):
    """Play all turns left as the oracle does, and sum up."""
    while judge.user() is not None:
        play(judge, judge.turn)
    return judge.outcome()


def until(wanted, n_calls=40):
    """A judge at the first turn, over all seeds, that is as wanted; all before it played rightly."""
    for seed in range(500):
        task = make_task(seed, n_calls)
        if any(wanted(turn) for turn in task.turns[1:]):
            judge = Judge(task)
            while judge.user() is not None and not (judge.begun > 1 and wanted(judge.turn)):
                play(judge, judge.turn)
            return judge, judge.turn
    raise AssertionError("no such turn")


def kind(name):
    return lambda turn: turn.kind == name and not turn.refuse and BY_NAME[turn.calls[-1].name].writes


def asking(turn):
    return turn.kind == "status" and not turn.refuse and len(turn.calls) == 3


@few
@given(SEEDS, st.integers(5, 200))
def test_the_oracle_is_right_throughout_and_leaves_the_expected_state(seed, n_calls):
    task = make_task(seed, n_calls)
    with Judge(task) as judge:
        for turn in task.turns:
            assert judge.user() == turn.user
            *calls, reply = play(judge, turn)
            assert all(call.right_arguments and call.right_tool and call.in_order for call in calls)
            assert [call.result for call in calls] == list(turn.results)
            assert reply.right, reply
        assert judge.user() is None
        outcome = judge.outcome()
    assert [step.depth for step in outcome.steps] == list(range(1, n_calls + 1))
    assert all(step.right and step.made for step in outcome.steps)
    assert outcome.passed
    assert outcome.first_wrong is None
    assert [call.depth for call in outcome.calls] == list(range(1, n_calls + 1))


def mutated(call, draw):
    """Another valid call of the same tool: one argument changed."""
    key = draw(st.sampled_from(sorted(call.arguments)))
    value = call.arguments[key]
    other: object
    if isinstance(value, int):
        other = value % 99 + 1 if key == "quantity" else value + 1
    elif "enum" in BY_NAME[call.name].parameters["properties"][key]:
        other = next(each for each in BY_NAME[call.name].parameters["properties"][key]["enum"] if each != value)
    elif value[1:].isdigit():
        other = f"{value[0]}{(int(value[1:]) + 1) % 10000:04}"
    else:
        other = value + "x"
    return call.name, call.arguments | {key: other}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_one_changed_argument_anywhere_is_caught_at_its_depth(data):
    task = make_task(data.draw(st.integers(0, 10_000)), data.draw(st.integers(5, 60)))
    spoilt = data.draw(st.integers(1, task.n_calls))
    with Judge(task) as judge:
        while judge.user() is not None:
            first = len(judge.steps) - len(judge.turn.calls)
            place = spoilt - first - 1
            if not 0 <= place < len(judge.turn.calls):
                play(judge, judge.turn)
                continue
            *calls, reply = play(judge, judge.turn, replacing={place: mutated(judge.turn.calls[place], data.draw)})
            verdict = calls[place]
            assert (verdict.valid_schema, verdict.right_tool, verdict.right_arguments) == (True, True, False)
            assert verdict.depth == spoilt
            assert reply.missed == (spoilt,)
        outcome = judge.outcome()
    assert outcome.first_wrong == spoilt
    assert not outcome.steps[spoilt - 1].right
    assert not outcome.steps[spoilt - 1].made
    assert sum(step.right for step in outcome.steps) == task.n_calls - 1
    if BY_NAME[outcome.steps[spoilt - 1].call.name].writes:
        assert not outcome.state_equal
        assert not outcome.passed


@pytest.mark.parametrize(
    ("raw", "valid_json", "problem"),
    [
        ("{", False, "not valid JSON"),
        ("", False, "not valid JSON"),
        ('{"order_id":NaN}', False, "not valid JSON"),
        ("[" * 100_000, False, "not valid JSON"),
        ("9" * 5000, False, "not valid JSON"),
        ("[]", True, "is not of type 'object'"),
        ("null", True, "is not of type 'object'"),
        ("{}", True, "'order_id' is a required property"),
        ('{"order_id":"4711"}', True, "does not match"),
        ('{"order_id":4711}', True, "is not of type 'string'"),
        ('{"order_id":"O4711","x":1}', True, "Additional properties are not allowed"),
    ],
)
def test_arguments_that_are_no_json_or_break_the_schema_run_nothing_and_are_told_to_the_model(raw, valid_json, problem):
    judge, turn = until(asking)
    place = len(turn.calls) - 1
    for call in turn.calls[:-1]:
        judge.call(call.name, compact(call.arguments))
    verdict = judge.call("get_order", raw)
    assert verdict.valid_json == valid_json
    assert not verdict.valid_schema
    assert verdict.right_tool
    assert problem in verdict.result["error"]
    assert problem in json.loads(verdict.content)["error"]
    judge.call(turn.calls[place].name, compact(turn.calls[place].arguments))
    judge.reply(turn.reply)
    outcome = play_rest(judge)
    assert outcome.state_equal
    assert outcome.passed, "the model mended it"
    assert outcome.first_wrong == verdict.depth
    assert outcome.steps[verdict.depth - 1].made
    assert not outcome.steps[verdict.depth - 1].right


def test_a_tool_that_does_not_exist_is_no_valid_call():
    judge, _ = until(asking)
    verdict = judge.call("delete\ud800user", "{}")
    assert (verdict.valid_json, verdict.valid_schema, verdict.right_tool) == (True, False, False)
    assert verdict.result == {"error": "no tool 'delete\\ud800user'"}
    verdict.content.encode()


def test_a_superfluous_read_is_answered_truly_and_harms_nothing():
    judge, turn = until(kind("cancel"))
    (item,) = judge.store.rows("SELECT id FROM items LIMIT 1")[0]
    extra = judge.call("check_stock", compact({"item_id": item}))
    assert (extra.right_tool, extra.right_arguments, extra.went_wrong) == (False, False, False)
    assert extra.result["stock"] >= 0
    play(judge, turn)
    outcome = play_rest(judge)
    assert outcome.passed
    assert outcome.first_wrong is None
    assert not outcome.steps[extra.depth - 1].right, "the first attempt counts"


def test_a_write_that_nobody_asked_for_shows_in_the_state():
    judge, turn = until(kind("cancel"))
    play(judge, turn)
    judge.user()
    order = turn.calls[-1].arguments["order_id"]
    verdict = judge.call("add_note", compact({"order_id": order, "note": "call before delivery"}))
    assert verdict.wrong_write
    play(judge, judge.turn)
    outcome = play_rest(judge)
    assert not outcome.state_equal
    assert not outcome.passed
    assert outcome.first_wrong == verdict.depth


def test_a_right_write_made_twice_is_a_wrong_write():
    judge, turn = until(kind("note"))
    for call in turn.calls:
        judge.call(call.name, compact(call.arguments))
    again = judge.call(turn.calls[-1].name, compact(turn.calls[-1].arguments))
    assert again.superfluous
    assert again.wrong_write
    assert again.depth == len(judge.steps)
    judge.reply(turn.reply)
    assert not play_rest(judge).state_equal


def test_a_wrong_write_that_is_impossible_changes_nothing():
    judge, turn = until(kind("cancel"))
    verdict = judge.call("add_note", '{"order_id":"O0000","note":"call before delivery"}')
    assert verdict.writes
    assert not verdict.wrong_write
    play(judge, turn)
    assert play_rest(judge).passed


def test_looking_up_too_little_is_missed_though_the_state_comes_out_right():
    judge, turn = until(kind("cancel"))
    place = len(turn.calls) - 2
    assert turn.calls[place].name == "get_order"
    *calls, reply = play(judge, turn, dropping={place})
    assert calls[-1].right_arguments
    depth = calls[-1].depth - 1
    assert reply.missed == (depth,)
    outcome = play_rest(judge)
    assert outcome.state_equal
    assert outcome.first_wrong == depth
    assert outcome.steps[depth - 1].attempt is None


def test_calls_in_another_order_fulfil_all_that_is_expected():
    judge, turn = until(kind("quantity"))
    last = len(turn.calls) - 1
    swapped = {last - 2: turn.calls[last - 1], last - 1: turn.calls[last - 2]}
    *calls, reply = play(judge, turn, replacing={k: (call.name, call.arguments) for k, call in swapped.items()})
    assert all(call.right_arguments for call in calls)
    assert [call.in_order for call in calls[-3:]] == [True, False, True]
    assert not reply.missed
    assert play_rest(judge).passed


def test_a_wrong_lookup_does_not_make_the_calls_that_follow_from_it_look_like_none():
    judge, turn = until(lambda turn: kind("cancel")(turn) and len(turn.calls) == 4)
    first = len(judge.steps) - 4
    name = next(name for (name,) in judge.store.rows("SELECT name FROM users") if name not in turn.user)
    user = judge.call("find_user", compact({"name": name})).result["users"][0]["id"]
    order = judge.call("list_orders", compact({"user_id": user})).result["orders"][0]["id"]
    judge.call("get_order", compact({"order_id": order}))
    judge.call("cancel_order", compact({"order_id": order, "reason": "too_slow"}))
    reply = judge.reply(f"Done: order {order} is cancelled.")
    steps = judge.steps[first:]
    assert [step.attempt and (step.attempt.right_tool, step.attempt.right_arguments) for step in steps] == [
        (True, False)
    ] * 4
    assert [call.depth for call in judge.calls[-4:]] == [step.depth for step in steps]
    assert reply.missed == tuple(step.depth for step in steps)
    assert play_rest(judge).first_wrong == first + 1


def test_the_order_of_keys_and_whole_floats_make_no_difference():
    judge, turn = until(kind("add"))
    call = turn.calls[-1]
    arguments = dict(reversed([*(call.arguments | {"quantity": float(call.arguments["quantity"])}).items()]))
    *calls, _ = play(judge, turn, replacing={len(turn.calls) - 1: (call.name, json.dumps(arguments, indent=1))})
    assert calls[-1].right_arguments
    assert play_rest(judge).passed


def test_doing_what_a_rule_forbids_breaks_the_policy_and_the_state():
    judge, turn = until(lambda turn: turn.kind == "cancel" and turn.refuse and "owner" not in turn.slices)
    for call in turn.calls:
        judge.call(call.name, compact(call.arguments))
    order = turn.calls[-1].arguments["order_id"]
    verdict = judge.call("cancel_order", compact({"order_id": order, "reason": "too_slow"}))
    assert str(verdict.broken_policy).startswith("status: cancel_order")
    assert "error" not in verdict.result, "the tools do as they are told"
    reply = judge.reply(f"Done: order {order} is cancelled.")
    assert reply.complied_wrongly
    assert not reply.right
    outcome = play_rest(judge)
    assert not outcome.policy_kept
    assert not outcome.state_equal
    assert outcome.first_wrong == verdict.depth


def test_acting_for_a_stranger_breaks_the_policy():
    judge, turn = until(lambda turn: "owner" in turn.slices)
    for call in turn.calls:
        judge.call(call.name, compact(call.arguments))
    arguments = {"order_id": turn.calls[-1].arguments["order_id"], "note": "call before delivery"}
    assert str(judge.call("add_note", compact(arguments)).broken_policy).startswith("owner:")


def test_an_approval_code_from_an_earlier_request_does_not_count():
    judge, turn = until(lambda turn: turn.kind == "refund" and "needs approval" in turn.reply)
    for call in turn.calls:
        judge.call(call.name, compact(call.arguments))
    order = next(result for call, result in zip(turn.calls, turn.results, strict=True) if call.name == "get_order")
    arguments = {"order_id": order["id"], "amount": order["total"], "approval": "A1234"}
    assert str(judge.call("refund_order", compact(arguments)).broken_policy).startswith("approval:")


def test_refusing_what_is_allowed_is_named_and_misses_the_write():
    judge, turn = until(kind("cancel"))
    *_, reply = play(judge, turn, dropping={len(turn.calls) - 1}, reply="Refused: I would rather not.")
    assert reply.refused_wrongly
    assert len(reply.missed) == 1
    outcome = play_rest(judge)
    assert not outcome.state_equal
    assert outcome.first_wrong == reply.missed[0]


@pytest.mark.parametrize(
    ("reply", "missing", "word"),
    [
        ("**Answer:** the order {id} is {status}, as asked.", (), "Answer:"),
        ("answer: {id}: {status}", (), "Answer:"),
        ("Answer: the order is {status}.", ("{id}",), "Answer:"),
        ("Answer: {id}7 is {status}.", ("{id}",), "Answer:"),
        ("The order {id} is {status}.", ("Answer:",), None),
        ("Done: order {id} is {status}.", ("Answer:",), "Done:"),
        ("", ("Answer:", "{id}", "{status}"), None),
    ],
)
def test_a_reply_has_to_begin_with_its_word_and_tell_the_facts(reply, missing, word):
    judge, turn = until(asking)
    order = turn.results[-1]
    *_, verdict = play(judge, turn, reply=reply.format(**order))
    assert verdict.missing == tuple(each.format(**order) for each in missing)
    assert verdict.word == word
    assert verdict.right == (not missing)
    assert play_rest(judge).passed == (not missing)


@pytest.mark.parametrize(
    ("text", "fact", "message"),
    [
        ("It is 1,240.", "1240", True),
        ("It is 240.00 euros.", "240", True),
        ("Order O2480", "24", False),
        ("Order O2480.", "O2480", True),
        ("was Canceled", "cancelled", True),
        ("to oak street 12, Rome", "Oak Street 12", True),
        ("to Oak Street 123", "Oak Street 12", False),
    ],
)
def test_a_fact_is_found_as_a_whole_word(text, fact, message):
    assert tells(text, fact) == message


def test_a_turn_ends_after_three_calls_and_twice_those_expected():
    judge, turn = until(asking)
    limit = 3 + 2 * len(turn.calls)
    verdicts = [judge.call("find_user", '{"name":"No One"}') for _ in range(limit)]
    assert [verdict.turn_over for verdict in verdicts] == [False] * (limit - 1) + [True]
    assert not judge.open
    assert judge.replies[-1].missed == tuple(step.depth for step in judge.steps[-len(turn.calls) :])
    late = judge.call("add_note", compact({"order_id": turn.results[-1]["id"], "note": "ring twice"}))
    assert late.turn_over
    assert late.result == {"error": "too many calls for this request"}
    outcome = play_rest(judge)
    assert outcome.state_equal, "what came too late was not run"
    assert outcome.first_wrong == judge.calls[-1].depth or outcome.first_wrong is not None
    assert not outcome.passed


def test_asking_for_the_next_request_amid_a_turn_ends_it_without_a_reply():
    judge, turn = until(asking)
    judge.user()
    assert judge.replies[-1].word is None
    assert len(judge.replies[-1].missed) == len(turn.calls)


def test_a_reply_without_a_request_is_the_runners_mistake():
    with Judge(make_task(0, 5)) as judge, pytest.raises(RuntimeError, match="ask user"):
        judge.reply("Done: nothing.")


def test_a_run_that_was_cut_short_is_not_finished_and_its_state_is_that_of_the_turns_begun():
    task = make_task(11, 60)
    with Judge(task) as judge:
        for _ in range(len(task.turns) // 2):
            judge.user()
            play(judge, judge.turn)
        outcome = judge.outcome()
    assert not outcome.finished
    assert not outcome.passed
    assert outcome.state_equal
    assert 0 < len(outcome.steps) < 60
    assert not replace(outcome, finished=True, state_equal=False).passed


def test_two_judges_of_a_task_do_not_share_a_world():
    task = make_task(12, 30)
    with Judge(task) as one, Judge(task) as other:
        play_rest(one)
        with Store(12) as fresh:
            assert other.store.state() == fresh.state()
