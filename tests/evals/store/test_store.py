"""The store: its tools take anything and stay strict, and its tasks can be done from what the conversation tells."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mlxquant.errors import UsageError
from mlxquant.evals.store import POLICY, SYSTEM_PROMPT, TOOLS, Store, make_task, openai_tools, policy, transcript
from mlxquant.evals.store.database import HANDLERS
from mlxquant.evals.store.tasks import compact
from mlxquant.evals.store.tools import BY_NAME

SEEDS = st.integers(0, 2_000_000)
CALLS = st.integers(5, 200)
few = settings(max_examples=12, deadline=None)


def spoken(messages):
    """All text of some messages, calls included."""
    return "\n".join(m["content"] + json.dumps(m.get("tool_calls", "")) for m in messages)


GOLDEN = "f5684cec256769514c0bdac133ebd47555549433c11e142e99f8fcfe433fe34c"


# The shipped tiny model was trained on these conversations: whoever changes the world changes what it was taught.
def test_tasks_are_to_the_byte_those_that_the_tiny_model_was_trained_on():
    digest = hashlib.sha256()
    for seed in (0, 1, 2, 77, 1_000_000, 1_000_001):
        for n_calls in (5, 20, 60, 200):
            digest.update(compact(transcript(make_task(seed, n_calls), system=False)).encode())
    assert digest.hexdigest() == GOLDEN


@few
@given(SEEDS, CALLS)
def test_a_task_has_exactly_the_number_of_calls_asked_for(seed, n_calls):
    task = make_task(seed, n_calls)
    assert sum(len(turn.calls) for turn in task.turns) == task.n_calls == n_calls
    assert all(turn.calls for turn in task.turns)


@pytest.mark.parametrize("n_calls", [5, 6, 7, 8, 9, 11])
def test_the_shortest_loops_come_out_exact_for_every_seed(n_calls):
    for seed in range(60):
        assert sum(len(turn.calls) for turn in make_task(seed, n_calls).turns) == n_calls


@pytest.mark.parametrize("n_calls", [-1, 4, 201])
def test_a_loop_outside_the_bounds_is_refused(n_calls):
    with pytest.raises(UsageError, match=f"5 to 200 calls, not {n_calls}"):
        make_task(0, n_calls)


@few
@given(SEEDS, CALLS)
def test_every_call_of_the_oracle_is_valid_against_its_schema_and_no_result_is_an_unforeseen_error(seed, n_calls):
    for turn in make_task(seed, n_calls).turns:
        for call, result in zip(turn.calls, turn.results, strict=True):
            Draft202012Validator(BY_NAME[call.name].parameters).validate(call.arguments)
            assert list(call.arguments) == [
                k for k in BY_NAME[call.name].parameters["properties"] if k in call.arguments
            ]
            assert "error" not in result or "not_found" in turn.slices


@few
@given(SEEDS, CALLS)
def test_a_store_of_the_same_seed_gives_the_results_in_the_transcript(seed, n_calls):
    with Store(seed) as store:
        for turn in make_task(seed, n_calls).turns:
            assert [store.call(call.name, call.arguments) for call in turn.calls] == list(turn.results)


@few
@given(SEEDS, CALLS)
def test_nothing_in_a_call_has_to_be_guessed(seed, n_calls):
    """Each argument stands in the request, or in a result or request before it; a reason is named by its enum."""
    messages = transcript(make_task(seed, n_calls), system=False)
    told = ""
    for message in messages:
        for call in message.get("tool_calls", ()):
            for key, value in json.loads(call["function"]["arguments"]).items():
                assert key == "reason" or re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", told), (key, value)
        if message["role"] != "assistant":
            told += message["content"] + "\n"


@few
@given(SEEDS)
def test_later_requests_need_what_earlier_results_returned(seed):
    turns = make_task(seed, 100).turns
    leaning = [turn for turn in turns if "back_reference" in turn.slices]
    assert len(leaning) > len(turns) / 6
    for turn in leaning:
        first = next(iter(turn.calls[0].arguments.values()))
        assert first not in turn.user or turn.calls[0].name in ("find_user", "search_items")
    # one in some hundred tasks has none, so three are looked at
    assert any("long_reference" in turn.slices for s in (seed, seed + 1, seed + 2) for turn in make_task(s, 200).turns)


def test_what_is_referred_back_to_is_mostly_near():
    turns = [turn for seed in range(12) for turn in make_task(seed, 200).turns]
    back = sum("back_reference" in turn.slices for turn in turns)
    long = sum("long_reference" in turn.slices for turn in turns)
    assert 0.05 < long / back < 0.4


def test_ids_are_new_in_every_task():
    def found(seed):
        return set(re.findall(r"\b[UOIK]\d{4}\b", spoken(transcript(make_task(seed, 60), system=False))))

    seen = set().union(*(found(seed) for seed in range(8)))
    fresh = found(1_000_000)
    assert len(fresh - seen) > 0.9 * len(fresh)


def test_every_kind_of_request_and_every_tool_comes_up_refusals_included():
    turns = [turn for seed in range(30) for turn in make_task(seed, 60).turns]
    assert {call.name for turn in turns for call in turn.calls} == set(BY_NAME)
    refused = {turn.kind for turn in turns if turn.refuse}
    assert refused >= {"cancel", "address", "refund", "coupon", "add", "quantity", "restock", "status"}
    slices = set().union(*(turn.slices for turn in turns))
    assert slices >= {"read", "write", "numeric", "refusal", "back_reference", "namesake", "not_found", "conditional"}
    assert 0.1 < sum(turn.refuse for turn in turns) / len(turns) < 0.3


def test_a_refused_turn_calls_nothing_that_writes():
    turns = [turn for seed in range(20) for turn in make_task(seed, 60).turns if turn.refuse]
    assert turns
    assert not any(BY_NAME[call.name].writes for turn in turns for call in turn.calls)


def test_a_loop_of_twenty_calls_stays_small_for_a_model_with_single_digit_tokens():
    for seed in range(10):
        text = spoken(transcript(make_task(seed, 20), system=False))
        calls_wrapped = len(re.findall(r'"id": "call_\d+", "type": "function"', text))
        assert calls_wrapped == 20
        contents = "".join(
            m["content"] + "".join(c["function"]["name"] + c["function"]["arguments"] for c in m.get("tool_calls", ()))
            for m in transcript(make_task(seed, 20), system=False)
        )
        assert len(re.findall(r" ?[A-Za-z_]+|\d|\s|[^\w\s]+", contents)) < 1500


def test_a_transcript_is_a_conversation_in_openai_form():
    task = make_task(5, 30)
    messages = transcript(task)
    assert messages[0] == {"role": "system", "content": SYSTEM_PROMPT}
    assert messages[1]["role"] == "user"
    assert transcript(task, system=False) == messages[1:]
    for message, after in pairwise(messages):
        if message.get("tool_calls"):
            (call,) = message["tool_calls"]
            assert after["role"] == "tool"
            assert after["tool_call_id"] == call["id"]
    ids = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert ids == [f"call_{n}" for n in range(1, 31)]
    assert messages[-1] == {"role": "assistant", "content": task.turns[-1].reply}


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tools_schema_is_strict_and_says_what_each_argument_is(tool):
    Draft202012Validator.check_schema(tool.parameters)
    assert tool.parameters["additionalProperties"] is False
    assert all(each["description"] for each in tool.parameters["properties"].values())
    assert not Draft202012Validator(tool.parameters).is_valid({})
    assert tool.name in HANDLERS


def test_there_are_at_least_twelve_tools_and_a_caller_cannot_spoil_them():
    listed = openai_tools()
    assert len(listed) >= 12
    listed[0]["function"]["parameters"]["properties"].clear()
    assert openai_tools()[0]["function"]["parameters"]["properties"]


def test_the_system_prompt_names_only_tools_that_exist_and_the_figures_that_the_code_checks():
    assert set(re.findall(r"\b[a-z]+_[a-z]+\b", SYSTEM_PROMPT)) <= set(BY_NAME)
    figures = {policy.REFUND_DAYS + 1, policy.GOLD_REFUND_DAYS, policy.APPROVAL_FROM, policy.RESTOCK_BELOW}
    assert {str(each) for each in figures} <= set(re.findall(r"\d+", POLICY))
    assert POLICY in SYSTEM_PROMPT


@cache
def shared():
    """One store for many calls."""
    return Store(1)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.sampled_from(sorted(BY_NAME)), st.text(), st.none(), st.lists(st.text())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["order_id", "user_id", "item_id", "name", "quantity", "amount", "code"]) | st.text(),
                inner,
                max_size=3,
            )
        ),
    ),
)
def test_the_store_answers_any_call_with_a_result_or_an_error(name, arguments):
    before = shared().state()
    result = shared().call(name, arguments)
    compact(result).encode()
    assert shared().state() == before or "error" not in result


def test_a_call_for_something_unknown_changes_nothing():
    with Store(3) as store:
        before = store.state()
        (order,) = store.rows("SELECT id FROM orders LIMIT 1")[0]
        assert store.call("get_order", {"order_id": "O0000"}) == {"error": "no order O0000"}
        assert store.call("add_item", {"order_id": order, "item_id": "I0000", "quantity": 1}) == {
            "error": "no item I0000"
        }
        assert store.call("apply_coupon", {"order_id": order, "code": "K0000"}) == {"error": "no coupon K0000"}
        assert store.call("list_orders", {"user_id": "U0000"}) == {"error": "no user U0000"}
        assert store.call("drop_table", {}) == {"error": "no tool 'drop_table'"}
        assert store.state() == before


def test_a_copy_goes_its_own_way():
    with Store(4) as store, store.copy() as other:
        (item, stock) = store.rows("SELECT id, stock FROM items LIMIT 1")[0]
        assert other.state() == store.state()
        assert other.call("restock_item", {"item_id": item, "quantity": 7}) == {"id": item, "stock": stock + 7}
        assert store.call("check_stock", {"item_id": item}) == {"id": item, "stock": stock}


def test_a_total_is_the_sum_of_its_lines_less_the_coupon_rounded_down():
    with Store(6) as store:
        checked = 0
        for order, code in store.rows("SELECT id, coupon FROM orders"):
            lines = store.rows('SELECT n, price FROM lines JOIN items ON id = item WHERE "order" = ?', order)
            percent = store.call("get_coupon", {"code": code})["percent"] if code else 0
            full = sum(n * price for n, price in lines)
            assert store.call("get_order", {"order_id": order})["total"] == (full - full * percent / 100) // 1
            checked += bool(code)
        assert checked


def test_cancelling_puts_the_pieces_back_and_adding_takes_them():
    with Store(8) as store:
        order, item, n, stock = store.rows(
            'SELECT "order", item, n, stock FROM lines JOIN items ON items.id = item ORDER BY lines.rowid LIMIT 1'
        )[0]
        store.call("add_item", {"order_id": order, "item_id": item, "quantity": 2})
        assert store.call("check_stock", {"item_id": item})["stock"] == stock - 2
        store.call("change_quantity", {"order_id": order, "item_id": item, "quantity": 1})
        assert store.call("check_stock", {"item_id": item})["stock"] == stock + n - 1
        store.call("cancel_order", {"order_id": order, "reason": "too_slow"})
        assert store.call("check_stock", {"item_id": item})["stock"] == stock + n
