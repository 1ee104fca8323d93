"""Requests about customers and goods: levels and cities, numbers of orders, prices, stock, restocking."""

from __future__ import annotations

from .conversation import Conversation
from .policy import RESTOCK_BELOW
from .references import draw_user, find, item_reference, user_calls, user_reference
from .words import FIRST_NAMES, LAST_NAMES


def user_request(talk: Conversation, budget: int) -> None:
    """Ask about a customer in at most `budget` (1 or more) calls."""
    if talk.first_user and talk.rng.random() < 0.05:
        return unknown_user(talk)
    if budget - 1 < user_calls(talk) or talk.rng.random() < 0.1:
        return whose_id(talk)
    who = user_reference(talk, budget - 1)
    user = str(talk.now_user)
    asked = talk.rng.choice(("count", "level"))
    if asked == "count":
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
    asked = talk.pick(f"what is the level of {name}?", f"how many orders does {name} have?")
    talk.end("unknown_user", asked, f"Not found: no customer {name}.", name)


def item_request(talk: Conversation, budget: int) -> None:
    """Ask about an item, or for a restock, in at most `budget` (2 or more, 1 with an item at hand) calls."""
    name, item = item_reference(talk, budget - 1)
    left = budget - len(talk.calls)
    kind = talk.rng.choice(("price", "stock", "restock") if left >= 2 else ("price", "stock"))
    n = talk.rng.randint(5, 50)
    asked = {
        "price": talk.pick(f"what does {name} cost?", f"what is the price of {name}?"),
        "stock": talk.pick(f"how many pieces of {name} are in stock?", f"what is the stock of {name}?"),
        "restock": talk.pick(f"restock {name}: {n} pieces came in.", f"add {n} pieces to the stock of {name}."),
    }[kind]
    if item is None:
        talk.slices.add("not_found")
        return talk.end(kind, asked, f"Not found: no {name}.", name)
    talk.slices.add("numeric")
    if kind == "price":
        price = talk.do("get_item", item_id=item)["price"]
        return talk.end(kind, asked, f"Answer: item {item} costs {price}.", price)
    stock = talk.do("check_stock", item_id=item)["stock"]
    if kind == "stock":
        return talk.end(kind, asked, f"Answer: the stock of item {item} is {stock}.", stock)
    if stock >= RESTOCK_BELOW:
        return talk.end(kind, asked, f"Refused: the stock is {stock}.", stock, refuse=True)
    stock = talk.do("restock_item", item_id=item, quantity=n)["stock"]
    return talk.end(kind, asked, f"Done: the stock of item {item} is {stock}.", stock)
