"""How a request points at a customer, an order or an item, and the calls that resolve it.

Each reference is drawn with its phrase and played at once. Its cost in calls is bounded by the budget given.
"""

from __future__ import annotations

from typing import Any

from .conversation import Conversation
from .words import COLORS


def draw_user(talk: Conversation) -> tuple[str, str, str]:
    """Draw any customer; return (id, name, how to say who it is: with the city where there are namesakes)."""
    user, name, city = talk.rng.choice(talk.store.rows("SELECT id, name, city FROM users ORDER BY rowid"))
    return user, name, spoken(talk, name, city)


def spoken(talk: Conversation, name: str, city: str) -> str:
    """Say a customer's name, with the city where it takes one to tell namesakes apart."""
    ((namesakes,),) = talk.store.rows("SELECT COUNT(*) FROM users WHERE name = ?", name)
    return f"{name} from {city}" if namesakes > 1 else name


def find(talk: Conversation, user: str, name: str, said: str) -> None:
    """Look a named customer up."""
    users = talk.do("find_user", name=name)["users"]
    if len(users) > 1:
        talk.slices.add("namesake")
    if said == name and len(users) != 1:
        raise AssertionError(f"{said} is not enough to tell {user}")
    talk.now_user = user


def user_reference(talk: Conversation, budget: int) -> str:
    """Point at a customer in at most `budget` (0 or more) calls; sets `now_user`; return the phrase."""
    ways = ["named"] * 3 if budget >= 1 else []
    ways += ["same"] * 2 if talk.same_user else []
    ways += ["first"] if talk.first_user and len(talk.turns) > 1 else []
    way = talk.rng.choice(ways)
    if way == "named":
        user, name, said = draw_user(talk)
        find(talk, user, name, said)
        return said
    talk.now_user = talk.same_user if way == "same" else talk.first_user
    talk.refer(str(talk.now_user))
    return f"the {way} customer"


def user_calls(talk: Conversation) -> int:
    """Return the fewest calls in which some customer can be pointed at."""
    return 0 if talk.same_user or (talk.first_user and len(talk.turns) > 1) else 1


def order_reference(talk: Conversation, budget: int) -> tuple[str, dict[str, Any] | None]:
    """Point at an order in at most `budget` calls, get_order included; return the phrase and the order.

    The order is None where it turns out to belong to someone else.
    """
    ways = {"number": 3, "listed": 4} if budget >= 3 else {"number": 1} if budget == 2 else {}
    if budget >= 2 and user_calls(talk) == 0:
        ways["known customer"] = 2
    if talk.same_order:
        ways["same"] = 3
    if talk.first_order and len(talk.turns) > 1:
        ways["first"] = 1
    if talk.before:
        ways["before"] = 2
    way = talk.rng.choices(list(ways), list(ways.values()))[0]
    if way == "number":
        return numbered(talk)
    if way in ("listed", "known customer"):
        phrase, order_id = listed(talk, named=way == "listed")
    elif way == "before":
        # mostly what came up lately; now and then anything
        known = list(talk.before)
        who = talk.rng.choice(known if talk.rng.random() < 0.25 else known[-5:])
        phrase, order_id = f"the order we opened for {who}", talk.before[who]
        talk.refer(order_id)
    else:
        order_id = str(talk.same_order if way == "same" else talk.first_order)
        phrase = f"the {way} order"
        talk.refer(order_id)
    return phrase, opened(talk, order_id)


def opened(talk: Conversation, order_id: str) -> dict[str, Any]:
    """Call get_order, and remember the order as one that can be referred back to."""
    order = talk.do("get_order", order_id=order_id)
    talk.now_order, talk.now_user, talk.customer = order_id, order["user"], order["user"]
    ((name, city),) = talk.store.rows("SELECT name, city FROM users WHERE id = ?", order["user"])
    who = spoken(talk, name, city)
    talk.before.pop(who, None)
    talk.before[who] = order_id
    return order


def numbered(talk: Conversation) -> tuple[str, dict[str, Any] | None]:
    """Point at an order by its number and a customer, who may not be its owner."""
    user, name, said = draw_user(talk)
    stranger = talk.first_order is not None and talk.rng.random() < 0.12
    condition = "!=" if stranger else "="
    order_id = talk.rng.choice(talk.store.rows(f"SELECT id FROM orders WHERE user {condition} ? ORDER BY id", user))[0]
    find(talk, user, name, said)
    talk.customer = user
    phrase = f"order {order_id} of {said}"
    if not stranger:
        return phrase, opened(talk, order_id)
    order = talk.do("get_order", order_id=order_id)
    talk.slices.add("owner")
    # Which order of its owner's came last is now open to debate, so nobody asks for it.
    ((owner, city),) = talk.store.rows("SELECT name, city FROM users WHERE id = ?", order["user"])
    talk.before.pop(spoken(talk, owner, city), None)
    return phrase, None


def listed(talk: Conversation, named: bool) -> tuple[str, str]:
    """Point at an order by its place or status in a customer's list."""
    if named:
        user, name, who = draw_user(talk)
        find(talk, user, name, who)
    else:
        who = user_reference(talk, 0)
    orders = talk.do("list_orders", user_id=talk.now_user)["orders"]
    statuses = [each["status"] for each in orders]
    unique = [each for each in orders if statuses.count(each["status"]) == 1]
    if unique and talk.rng.random() < 0.5:
        chosen = talk.rng.choice(unique)
        return f"the {chosen['status']} order of {who}", chosen["id"]
    return f"the latest order of {who}", orders[0]["id"]


def item_reference(talk: Conversation, budget: int) -> tuple[str, str | None]:
    """Point at an item in at most `budget` calls; return the phrase and its id, or None where it is not sold."""
    if talk.same_item and (budget < 1 or talk.rng.random() < 0.4):
        talk.refer(talk.same_item)
        talk.now_item = talk.same_item
        return "the same item", talk.same_item
    kind, name = talk.rng.choice(talk.store.rows("SELECT kind, name FROM items ORDER BY id"))
    if talk.rng.random() < 0.06:
        name = f"{talk.rng.choice(COLORS)} {kind}"
    return name, searched(talk, kind, name)


def searched(talk: Conversation, kind: str, name: str) -> str | None:
    """Search for an item by its kind and take the one of that name; None where there is none."""
    items = talk.do("search_items", kind=kind)["items"]
    chosen = [item["id"] for item in items if item["name"] == name]
    talk.now_item = chosen[0] if chosen else None
    return talk.now_item
