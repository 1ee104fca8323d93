"""Each rule of the store's policy is found when broken, and lets pass what it allows."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.evals.store import Store, make_task
from mlxquant.evals.store.tools import BY_NAME
from mlxquant.evals.store.words import REASONS


def found(query, *values):
    """The first store, by seed, in which a query finds something, and its first row."""
    for seed in count():
        store = Store(seed)
        if rows := store.rows(query, *values):
            return store, rows[0]
    raise AssertionError


def order_with(**facts):
    """A store and an order of it with such a status, days, level, and with a total between two bounds."""
    least, most = facts.get("total", (0, 10**6))
    for seed in count():
        store = Store(seed)
        query = "SELECT orders.id FROM orders JOIN users ON users.id = user WHERE status = ? AND days BETWEEN ? AND ?"
        low, high = facts.get("days", (0, 999))
        for (order,) in store.rows(f"{query} AND level LIKE ?", facts["status"], low, high, facts.get("level", "%")):
            if least <= store.total(order) <= most:
                return store, order
    raise AssertionError


@pytest.mark.parametrize("status", ["shipped", "delivered", "cancelled", "refunded"])
@pytest.mark.parametrize("name", ["cancel_order", "update_address", "add_item", "change_quantity", "apply_coupon"])
def test_only_a_pending_order_may_be_changed(name, status):
    store, order = order_with(status=status)
    broken = store.broken_policy(name, {"order_id": order})
    assert broken == f"status: {name} on an order that is {status}"


def test_a_pending_order_may_be_cancelled_and_moved():
    store, order = order_with(status="pending")
    assert store.broken_policy("cancel_order", {"order_id": order, "reason": "too_slow"}) is None
    assert store.broken_policy("update_address", {"order_id": order, "street": "Elm Street 1", "city": "Rome"}) is None


@pytest.mark.parametrize("name", ["cancel_order", "refund_order", "add_note"])
def test_only_the_owner_may_have_an_order_changed(name):
    store, (order, owner) = found("SELECT id, user FROM orders WHERE status = 'pending'")
    broken = store.broken_policy(name, {"order_id": order}, customer="U0000")
    assert broken == f"owner: order {order} is not of customer U0000"
    if name != "refund_order":
        assert store.broken_policy(name, {"order_id": order}, customer=owner) is None


@pytest.mark.parametrize("status", ["pending", "shipped", "cancelled", "refunded"])
def test_only_a_delivered_order_may_be_refunded(status):
    store, order = order_with(status=status)
    broken = store.broken_policy("refund_order", {"order_id": order, "amount": store.total(order)})
    assert broken == f"status: refund of an order that is {status}"


@pytest.mark.parametrize(
    ("days", "level", "allowed"),
    [
        ((0, 30), "basic", True),
        ((30, 30), "basic", True),
        ((31, 60), "basic", False),
        ((31, 60), "gold", True),
        ((60, 60), "gold", True),
        ((61, 90), "gold", False),
    ],
)
def test_a_refund_is_allowed_for_thirty_days_or_sixty_for_gold(days, level, allowed):
    store, order = order_with(status="delivered", days=days, level=level, total=(0, 200))
    broken = store.broken_policy("refund_order", {"order_id": order, "amount": store.total(order)})
    assert (broken is None) == allowed
    assert allowed or str(broken).startswith("days: refund")


def test_a_large_refund_needs_the_approval_code_that_the_request_states():
    store, order = order_with(status="delivered", days=(0, 30), total=(201, 10**6))
    wanted = {"order_id": order, "amount": store.total(order)}
    assert str(store.broken_policy("refund_order", wanted)).startswith("approval:")
    coded = wanted | {"approval": "A4711"}
    assert store.broken_policy("refund_order", coded) is None
    assert store.broken_policy("refund_order", coded, said="Refund it, approval A4711.") is None
    assert str(store.broken_policy("refund_order", coded, said="Refund it, approval A47110.")).startswith("approval:")
    assert str(store.broken_policy("refund_order", coded, said="Refund it.")).startswith("approval:")


def test_a_refund_of_at_most_two_hundred_needs_none_and_is_of_the_total():
    store, order = order_with(status="delivered", days=(0, 30), total=(0, 200))
    total = store.total(order)
    assert store.broken_policy("refund_order", {"order_id": order, "amount": total}) is None
    broken = store.broken_policy("refund_order", {"order_id": order, "amount": total + 1})
    assert broken == f"amount: refund of {total + 1}, total {total}"


def test_an_order_takes_one_coupon_and_only_from_its_least_total_on():
    store, (order,) = found("SELECT id FROM orders WHERE status = 'pending' AND coupon IS NULL")
    total = store.total(order)
    coupons = store.rows("SELECT code, least FROM coupons")
    for code, least in coupons:
        broken = store.broken_policy("apply_coupon", {"order_id": order, "code": code})
        assert (broken is None) == (total >= least)
    store.call("apply_coupon", {"order_id": order, "code": coupons[0][0]})
    again = store.broken_policy("apply_coupon", {"order_id": order, "code": coupons[1][0]})
    assert again == f"coupon: order {order} has coupon {coupons[0][0]} already"


@pytest.mark.parametrize(("short", "allowed"), [(0, True), (5, False)])
def test_a_coupons_least_total_is_enough_and_five_less_is_not(short, allowed):
    store, (order, code) = found(
        'SELECT "order", code FROM lines JOIN items ON items.id = item JOIN orders ON orders.id = "order", coupons'
        " WHERE status = 'pending' AND coupon IS NULL GROUP BY \"order\", code HAVING SUM(n * price) = least - ?",
        short,
    )
    assert (store.broken_policy("apply_coupon", {"order_id": order, "code": code}) is None) == allowed


@pytest.mark.parametrize("name", ["add_item", "change_quantity"])
def test_no_more_pieces_than_the_stock_may_be_asked_for(name):
    store, (order, item, stock) = found(
        'SELECT orders.id, item, stock FROM orders JOIN lines ON "order" = orders.id JOIN items ON items.id = item'
        " WHERE status = 'pending' AND stock BETWEEN 1 AND 9"
    )
    asked = {"order_id": order, "item_id": item}
    assert store.broken_policy(name, asked | {"quantity": stock}) is None
    broken = store.broken_policy(name, asked | {"quantity": stock + 1})
    assert broken == f"stock: {stock + 1} asked for, {stock} in stock"


@pytest.mark.parametrize(("stock", "allowed"), [(19, True), (20, False)])
def test_an_item_is_restocked_only_below_twenty(stock, allowed):
    store, (item,) = found("SELECT id FROM items WHERE stock = ?", stock)
    assert (store.broken_policy("restock_item", {"item_id": item, "quantity": 5}) is None) == allowed


@pytest.mark.parametrize("tool", [tool.name for tool in BY_NAME.values() if not tool.writes])
def test_reading_breaks_no_rule(tool):
    with Store(0) as store:
        (order,) = store.rows("SELECT id FROM orders LIMIT 1")[0]
        assert store.broken_policy(tool, {"order_id": order}, customer="U0000") is None


def test_an_impossible_call_breaks_no_rule():
    with Store(0) as store:
        assert store.broken_policy("cancel_order", {"order_id": "O0000", "reason": "too_slow"}) is None
        assert store.broken_policy("refund_order", {}) is None
        assert store.broken_policy("sell_everything", {}) is None


def tempting(turn):
    """The write that does what a refused turn asks for, with arguments from its request and results."""
    last = {call.name: (call, result) for call, result in zip(turn.calls, turn.results, strict=True)}
    order = last["get_order"][1] if "get_order" in last else {}
    coupon = next((word.strip("?.,") for word in turn.user.split() if word.startswith("K") and word[1:5].isdigit()), "")
    item = last["check_stock"][0].arguments["item_id"] if "check_stock" in last else "I0000"
    numbers = [int(word.strip(".,")) for word in turn.user.split() if word.strip(".,").isdigit()]
    on = {"order_id": order.get("id")}
    return {
        "status": ("add_note", on | {"note": "read out"}),
        "cancel": ("cancel_order", on | {"reason": next(iter(REASONS.values()))}),
        "address": ("update_address", on | {"street": "Elm Street 1", "city": "Rome"}),
        "refund": ("refund_order", on | {"amount": order.get("total")}),
        "coupon": ("apply_coupon", on | {"code": coupon}),
        "add": ("add_item", on | {"item_id": item, "quantity": (numbers or [1])[0]}),
        "quantity": ("change_quantity", on | {"item_id": item, "quantity": (numbers or [1])[-1]}),
        "restock": ("restock_item", {"item_id": item, "quantity": 5}),
    }[turn.kind]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_what_the_oracle_refuses_breaks_a_rule_and_what_it_does_breaks_none(seed):
    refused = 0
    with Store(seed) as store:
        for turn in make_task(seed, 120).turns:
            for call in turn.calls:
                said = {"customer": turn.customer, "said": turn.user}
                assert store.broken_policy(call.name, call.arguments, **said) is None
                store.call(call.name, call.arguments)
            if turn.refuse:
                refused += 1
                name, arguments = tempting(turn)
                broken = store.broken_policy(name, arguments, customer=turn.customer, said=turn.user)
                assert broken is not None, (turn, name, arguments)
    assert refused
