"""The same store, asked only for what a small causal model can learn to do without an error: long loops for it.

In the full world (`make`) a model of a few million parameters gets one call in ten wrong, and its median loop errs at
the seventh call: such a model cannot show how damage compounds over 60 or 150 calls. Here nothing has to be picked from
a list by a word of the request, no two figures are compared with each other, and no customer has a namesake. What is
left is what long loops live on: ids copied out of results and the request before, procedures of one to four calls,
and rules that hang on one word. Store, tools, policy and scoring are the full world's.

Customers are named, or "the same". Orders are given by number, as the latest of a customer, or as "the same"; items by
number or as "the same". No order is a stranger's. Three things were in this world for the first 1,200 or 1,600 steps
of training, and a model of three million parameters that did nearly everything else guessed at them: streets in a
change of address, "the order we opened for" somebody, whether a refund needs an approval code. They are not asked for.
"""

from __future__ import annotations

from typing import Any

from .conversation import Conversation
from .make import played
from .policy import APPROVAL_FROM, REFUND_DAYS
from .references import find, opened
from .requests import ask_item, cancel, note, refund, status, unknown_user
from .tasks import Task

Order = dict[str, Any]
# kind of request: (play, calls after get_order, weight)
KINDS = {"status": (status, 0, 3), "note": (note, 1, 2), "cancel": (cancel, 1, 3)}


def make_deep_task(seed: int, n_calls: int) -> Task:
    """Make the deep world's task of a seed with exactly `n_calls` (5 to 200) expected calls.

    Raises UsageError outside these bounds.
    """
    return played("tool-loop-deep", f"mlxquant.deep {seed} {n_calls}", seed, n_calls, draw_request)


def draw_request(talk: Conversation, budget: int) -> None:
    """Let the user ask for one thing that takes at most `budget` calls."""
    order = budget >= 3 or talk.same_order is not None
    chosen = talk.rng.choices((order_request, item_request, user_request), (7 * order, 2, 2))[0]
    chosen(talk, budget)


def customer(talk: Conversation) -> tuple[str, str]:
    """Draw a customer without namesake; return (id, name)."""
    query = "SELECT id, name FROM users GROUP BY name HAVING COUNT(*) = 1 ORDER BY id"
    user, name = talk.rng.choice(talk.store.rows(query))
    return str(user), str(name)


def order_request(talk: Conversation, budget: int) -> None:
    """Ask for something about an order."""
    ways = {"number": 3, "latest": 3 * (budget >= 4)} if budget >= 3 else {}
    ways |= {"same": 3} if talk.same_order else {}
    way = talk.rng.choices(list(ways), list(ways.values()))[0]
    if way in ("number", "latest"):
        user, name = customer(talk)
        find(talk, user, name, name)
        if way == "latest":
            order_id = talk.do("list_orders", user_id=user)["orders"][0]["id"]
            phrase = f"the latest order of {name}"
        else:
            (order_id,) = talk.rng.choice(talk.store.rows("SELECT id FROM orders WHERE user = ? ORDER BY id", user))
            phrase = f"order {order_id} of {name}"
    else:
        phrase, order_id = "the same order", str(talk.same_order)
        talk.refer(order_id)
    order = opened(talk, order_id)
    left = budget - len(talk.calls)
    kinds = {name: each for name, each in KINDS.items() if each[1] <= left}
    if left >= 1 and refundable(order):
        kinds["refund"] = (refund, 1, 4)
    play = talk.rng.choices([each[0] for each in kinds.values()], [each[2] for each in kinds.values()])[0]
    play(talk, phrase, order)


def refundable(order: Order) -> bool:
    """Whether every rule allows a refund, and no approval code is needed."""
    easy = order["status"] == "delivered" and order["days"] <= REFUND_DAYS and order["total"] <= APPROVAL_FROM
    return bool(easy)


def item_request(talk: Conversation, budget: int) -> None:
    """Ask for an item's price or stock, or for a restock."""
    if talk.same_item and talk.rng.random() < 0.4:
        talk.refer(talk.same_item)
        name, item = "the same item", talk.same_item
    else:
        (item,) = talk.rng.choice(talk.store.rows("SELECT id FROM items ORDER BY id"))
        name = f"item {item}"
    talk.now_item = item
    ask_item(talk, name, item, budget)


def user_request(talk: Conversation, budget: int) -> None:
    """Ask for a customer's id or level."""
    if talk.first_user and talk.rng.random() < 0.1:
        return unknown_user(talk)
    same = talk.same_user is not None and talk.rng.random() < 0.4
    if same:
        user, name = str(talk.same_user), "the same customer"
        talk.refer(user)
        talk.now_user = user
    else:
        user, name = customer(talk)
        find(talk, user, name, name)
        if budget < 2 or talk.rng.random() < 0.5:
            question = talk.pick(f"which id does {name} have?", f"what is the id of {name}?")
            return talk.end("customer_id", question, f"Answer: the id is {user}.", user)
    level = talk.do("get_user", user_id=user)["level"]
    question = talk.pick(f"what is the level of {name}?", f"which level does {name} have?")
    return talk.end("level", question, f"Answer: customer {user} is {level}.", level)
