"""The requests that a scripted user makes, each a function that plays it after what it is about was opened.

About one order: asking, cancelling, refunding, and changing it. About customers and goods: levels and cities, numbers
of orders, prices, stock, restocking. Each ends the turn; where a rule forbids the request, the calls stop at the result
that shows so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .conversation import Conversation
from .policy import APPROVAL_FROM, GOLD_REFUND_DAYS, REFUND_DAYS, RESTOCK_BELOW
from .references import draw_user, find, item_reference, order_reference, searched, user_calls, user_reference
from .words import CITIES, FIRST_NAMES, LAST_NAMES, NOTES, REASONS, STATUSES, STREETS

# --- about an order ---


Order = dict[str, Any]
Play = Callable[[Conversation, str, Order], None]


@dataclass(frozen=True, slots=True)
class RequestKind:
    """A kind of request: how it is played, its most calls after get_order, and the statuses that allow it."""

    play: Play
    calls: int
    statuses: tuple[str, ...]
    weight: int = 2


def order_request(talk: Conversation, budget: int) -> None:
    """Make one request about an order in at most `budget` (1 or more) calls."""
    reserve = 0 if budget < 4 else talk.rng.choice((0, 1, 2, 3))
    phrase, order = order_reference(talk, max(budget - reserve, min(budget, 2)))
    left = budget - len(talk.calls)
    kinds = {name: kind for name, kind in KINDS.items() if kind.calls <= left}
    if order is None:
        refuse_stranger(talk, phrase)
        return
    lawful = {name: kind for name, kind in kinds.items() if order["status"] in kind.statuses}
    chosen = lawful if lawful and talk.rng.random() < 0.85 else kinds
    name = talk.rng.choices(list(chosen), [kind.weight for kind in chosen.values()])[0]
    chosen[name].play(talk, phrase, order)


def refuse_stranger(talk: Conversation, phrase: str) -> None:
    """Refuse what concerns an order of someone else."""
    order_id = talk.calls[-1].arguments["order_id"]
    reason = talk.rng.choice(list(REASONS))
    question, kind = talk.rng.choice(
        (
            (f"cancel {phrase}, {reason}.", "cancel"),
            (f"what is the status of {phrase}?", "status"),
            (f"refund {phrase}.", "refund"),
        )
    )
    talk.end(kind, question, f"Refused: order {order_id} belongs to another customer.", order_id, refuse=True)


def refuse_status(talk: Conversation, kind: str, question: str, order: Order) -> bool:
    """Refuse a change of an order that is not pending; say whether that was so."""
    status = order["status"]
    if status != "pending":
        reply = f"Refused: order {order['id']} is {status}."
        talk.end(kind, question, reply, order["id"], status, refuse=True)
    return bool(status != "pending")


def status(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for an order's status, total or days."""
    fact = talk.rng.choice(("status", "total", "days"))
    if fact == "status":
        question = talk.pick(f"what is the status of {phrase}?", f"which status does {phrase} have?")
        reply = f"Answer: order {order['id']} is {order['status']}."
    elif fact == "total":
        question = talk.pick(f"what is the total of {phrase}?", f"how much is {phrase}?")
        reply = f"Answer: the total of order {order['id']} is {order['total']}."
    else:
        question = talk.pick(
            f"how long has {phrase} had its status?", f"for how many days has {phrase} had its status?"
        )
        reply = f"Answer: order {order['id']} is {order['status']}; days since then: {order['days']}."
    if fact != "status":
        talk.slices.add("numeric")
    talk.end(fact, question, reply, order["id"], order[fact])


def cancel(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for an order to be cancelled."""
    reason = talk.rng.choice(list(REASONS))
    question = talk.pick(f"cancel {phrase}, {reason}.", f"please cancel {phrase}: {reason}.")
    if refuse_status(talk, "cancel", question, order):
        return
    talk.do("cancel_order", order_id=order["id"], reason=REASONS[reason])
    talk.end("cancel", question, f"Done: order {order['id']} is cancelled.", order["id"], "cancelled")


def address(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for an order to go elsewhere."""
    street = f"{talk.rng.choice(STREETS)} Street {talk.rng.randint(1, 99)}"
    city = talk.rng.choice(CITIES)
    question = talk.pick(f"send {phrase} to {street}, {city}.", f"the new address of {phrase} is {street}, {city}.")
    if refuse_status(talk, "address", question, order):
        return
    talk.do("update_address", order_id=order["id"], street=street, city=city)
    talk.end("address", question, f"Done: order {order['id']} goes to {street}, {city}.", order["id"], street, city)


def note(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for a note; no rule forbids it."""
    text = talk.rng.choice(NOTES)
    question = talk.pick(f'add a note to {phrase}: "{text}"', f'note on {phrase}: "{text}"')
    talk.do("add_note", order_id=order["id"], note=text)
    talk.end("note", question, f"Done: order {order['id']} has the note.", order["id"])


def refund(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for a refund, with or without an approval code."""
    approval = None
    if order["total"] > APPROVAL_FROM and talk.rng.random() < 0.6:
        approval = f"A{talk.rng.randint(1000, 9999)}"
    with_code = f", approval {approval}" if approval else ""
    question = talk.pick(f"refund {phrase}{with_code}.", f"please refund {phrase}{with_code}.")
    order_id, days, total = order["id"], order["days"], order["total"]
    talk.slices.add("numeric")
    if order["status"] != "delivered":
        reply = f"Refused: order {order_id} is {order['status']}."
        return talk.end("refund", question, reply, order_id, order["status"], refuse=True)
    too_late = f"Refused: days since the delivery of order {order_id}: {days}."
    if days > GOLD_REFUND_DAYS:
        return talk.end("refund", question, too_late, order_id, days, refuse=True)
    if total > APPROVAL_FROM and not approval:
        reply = f"Refused: {total} for order {order_id} needs approval."
        return talk.end("refund", question, reply, order_id, total, refuse=True)
    if days > REFUND_DAYS:
        talk.slices.add("conditional")
        if talk.do("get_user", user_id=order["user"])["level"] != "gold":
            return talk.end("refund", question, too_late, order_id, days, refuse=True)
    talk.do("refund_order", order_id=order_id, amount=total, **({"approval": approval} if approval else {}))
    return talk.end("refund", question, f"Done: {total} refunded for order {order_id}.", order_id, total)


def coupon(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for a coupon to be used."""
    codes = [code for (code,) in talk.store.rows("SELECT code FROM coupons ORDER BY code")]
    code = talk.rng.choice(codes)
    if talk.rng.random() < 0.06:
        unknown = [each for each in (f"K{talk.rng.randint(1000, 9999)}",) if each not in codes]
        code = talk.rng.choice(unknown or codes)
    question = talk.pick(f"use coupon {code} on {phrase}.", f"apply coupon {code} to {phrase}.")
    order_id = order["id"]
    if refuse_status(talk, "coupon", question, order):
        return None
    if order["coupon"] is not None:
        reply = f"Refused: order {order_id} has coupon {order['coupon']}."
        return talk.end("coupon", question, reply, order_id, order["coupon"], refuse=True)
    terms = talk.do("get_coupon", code=code)
    talk.slices.add("numeric")
    if "error" in terms:
        talk.slices.add("not_found")
        return talk.end("coupon", question, f"Not found: no coupon {code}.", code)
    if order["total"] < terms["min"]:
        reply = f"Refused: the total {order['total']} of order {order_id} is below {terms['min']}."
        return talk.end("coupon", question, reply, order_id, terms["min"], refuse=True)
    total = talk.do("apply_coupon", order_id=order_id, code=code)["total"]
    return talk.end("coupon", question, f"Done: the total of order {order_id} is {total}.", order_id, total)


def add(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for pieces of an item that the order does not hold yet."""
    held = [item["name"] for item in order["items"]]
    goods = [good for good in talk.store.rows("SELECT kind, name FROM items ORDER BY id") if good[1] not in held]
    kind, name = talk.rng.choice(goods)
    n = talk.rng.randint(1, 9)
    question = talk.pick(f"add {n} pieces of {name} to {phrase}.", f"put {n} pieces of {name} into {phrase}.")
    if refuse_status(talk, "add", question, order):
        return
    item = str(searched(talk, kind, name))
    change(talk, "add_item", question, order, item, n)


def quantity(talk: Conversation, phrase: str, order: Order) -> None:
    """Ask for another quantity of an item that the order holds."""
    line = talk.rng.choice(order["items"])
    n = talk.rng.choice([each for each in range(1, 10) if each != line["n"]])
    question = talk.pick(
        f"make it {n} pieces of {line['name']} in {phrase}.", f"set {line['name']} in {phrase} to {n}."
    )
    if refuse_status(talk, "quantity", question, order):
        return
    talk.now_item = line["id"]
    change(talk, "change_quantity", question, order, line["id"], n)


def change(talk: Conversation, tool: str, question: str, order: Order, item: str, n: int) -> None:
    """Check the stock, and change what an order holds if it is enough."""
    kind = "add" if tool == "add_item" else "quantity"
    stock = talk.do("check_stock", item_id=item)["stock"]
    talk.slices.add("numeric")
    if n > stock:
        talk.end(kind, question, f"Refused: the stock is {stock}.", stock, refuse=True)
        return
    total = talk.do(tool, order_id=order["id"], item_id=item, quantity=n)["total"]
    talk.end(kind, question, f"Done: the total of order {order['id']} is {total}.", order["id"], total)


KINDS: Final[dict[str, RequestKind]] = {
    "status": RequestKind(status, 0, STATUSES, 2),
    "note": RequestKind(note, 1, STATUSES, 1),
    "cancel": RequestKind(cancel, 1, ("pending",)),
    "address": RequestKind(address, 1, ("pending",)),
    "refund": RequestKind(refund, 2, ("delivered",), 5),
    "coupon": RequestKind(coupon, 2, ("pending",)),
    "add": RequestKind(add, 3, ("pending",), 3),
    "quantity": RequestKind(quantity, 2, ("pending",)),
}


# --- about customers and goods ---


def user_request(talk: Conversation, budget: int) -> None:
    """Ask about a customer in at most `budget` (1 or more) calls."""
    if talk.first_user and talk.rng.random() < 0.05:
        return unknown_user(talk)
    if budget - 1 < user_calls(talk) or talk.rng.random() < 0.1:
        return whose_id(talk)
    who = user_reference(talk, budget - 1)
    user = str(talk.now_user)
    subject = talk.rng.choice(("count", "level"))
    if subject == "count":
        talk.slices.add("numeric")
        orders = talk.do("list_orders", user_id=user)["orders"]
        question = talk.pick(f"how many orders does {who} have?", f"count the orders of {who}.")
        return talk.end(
            "count", question, f"Answer: the number of orders of customer {user} is {len(orders)}.", len(orders)
        )
    level = talk.do("get_user", user_id=user)["level"]
    question = talk.pick(f"what is the level of {who}?", f"which level does {who} have?")
    return talk.end("level", question, f"Answer: customer {user} is {level}.", level)


def whose_id(talk: Conversation) -> None:
    """Ask for a named customer's id, which takes one call."""
    user, name, who = draw_user(talk)
    find(talk, user, name, who)
    reply = f"Answer: the id is {user}."
    talk.end("customer_id", talk.pick(f"which id does {who} have?", f"what is the id of {who}?"), reply, user)


def unknown_user(talk: Conversation) -> None:
    """Ask about a customer whom the store does not know."""
    while True:
        name = f"{talk.rng.choice(FIRST_NAMES)} {talk.rng.choice(LAST_NAMES)}"
        if not talk.store.rows("SELECT 1 FROM users WHERE name = ?", name):
            break
    talk.do("find_user", name=name)
    talk.slices.add("not_found")
    question = talk.pick(f"what is the level of {name}?", f"how many orders does {name} have?")
    talk.end("unknown_user", question, f"Not found: no customer {name}.", name)


def item_request(talk: Conversation, budget: int) -> None:
    """Ask about an item, or for a restock, in at most `budget` (2 or more, 1 with an item at hand) calls."""
    name, item = item_reference(talk, budget - 1)
    ask_item(talk, name, item, budget)


def ask_item(talk: Conversation, name: str, item: str | None, budget: int) -> None:
    """Ask for the price or the stock of an item called `name`, or for a restock; `item` is None where none is sold."""
    left = budget - len(talk.calls)
    kind = talk.rng.choice(("price", "stock", "restock") if left >= 2 else ("price", "stock"))
    n = talk.rng.randint(5, 50)
    question = {
        "price": talk.pick(f"what does {name} cost?", f"what is the price of {name}?"),
        "stock": talk.pick(f"how many pieces of {name} are in stock?", f"what is the stock of {name}?"),
        "restock": talk.pick(f"restock {name}: {n} pieces came in.", f"add {n} pieces to the stock of {name}."),
    }[kind]
    if item is None:
        talk.slices.add("not_found")
        return talk.end(kind, question, f"Not found: no {name}.", name)
    talk.slices.add("numeric")
    if kind == "price":
        price = talk.do("get_item", item_id=item)["price"]
        return talk.end(kind, question, f"Answer: item {item} costs {price}.", price)
    stock = talk.do("check_stock", item_id=item)["stock"]
    if kind == "stock":
        return talk.end(kind, question, f"Answer: the stock of item {item} is {stock}.", stock)
    if stock >= RESTOCK_BELOW:
        return talk.end(kind, question, f"Refused: the stock is {stock}.", stock, refuse=True)
    stock = talk.do("restock_item", item_id=item, quantity=n)["stock"]
    return talk.end(kind, question, f"Done: the stock of item {item} is {stock}.", stock)
