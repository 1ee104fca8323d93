"""What is forbidden in the store, as text for the model and as code for the judge.

The two are kept side by side here so that they say the same. Code looks only at the store's present state and, where
a rule speaks of the request, at who asks and what was said; it does not look at whether the model looked things up.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

REFUND_DAYS = 30
GOLD_REFUND_DAYS = 60
APPROVAL_FROM = 200
RESTOCK_BELOW = 20

POLICY = f"""\
Rules, in this order; the first that applies is the one to name when you refuse:
1. Owner: an order may be read out or changed only for the customer who placed it (the order's user).
2. Only a pending order may be cancelled, or have its address, items, quantities or coupon changed. A note may be \
added whatever the status.
3. Only a delivered order may be refunded, in full, at most {GOLD_REFUND_DAYS} days after delivery.
4. A refund of more than {APPROVAL_FROM} needs an approval code in the request.
5. An order delivered {REFUND_DAYS + 1} to {GOLD_REFUND_DAYS} days ago may be refunded only to a gold customer: only \
then, check the customer's level with get_user.
6. One coupon per order, and only if the order's total is at least the coupon's min.
7. A quantity asked for (the pieces to add, or the new quantity) may not be more than the stock.
8. An item may be restocked only if its stock is below {RESTOCK_BELOW}."""

SYSTEM_PROMPT = f"""\
You work at the service desk of a store. A clerk passes on one request after another. Do each with the tools, then \
answer in one short sentence.

{POLICY}

How to work:
- One call at a time. Take every id from a request or from a result; never guess one.
- A request that names a customer starts with find_user. If there are namesakes, \
the request says the city. Only "the order we opened for NAME" needs no find_user: it is the order of that customer \
that you opened last in this conversation.
- "The same" customer, order or item is that of the request before; "the first" customer or order is the first that \
any request of this conversation was about. Take their ids from the conversation; do not search for them again.
- An order that is not given by its number or from this conversation is found with list_orders; the latest order is \
the first in the list.
- Every request about one order then calls get_order before anything is answered or changed.
- Things change: look up again what a request needs, even if you saw it earlier in the conversation. Only the ids of \
"the same", "the first" and "the order we opened" are taken from it.
- An item that the request names by colour and kind is found with search_items, by its kind; for an order's own \
items take the id from get_order. Before adding pieces, changing a quantity or restocking, call check_stock. Before \
applying a coupon, call get_coupon.
- Check in this order: customer, order, level, item or coupon, stock; then make the change. As soon as a result shows \
that a rule forbids the request, make no further call and refuse.
- Make no calls that the request does not need.

Begin the answer with "Done:" after a change, "Answer:" to a question, "Refused:" if a rule forbids it, or \
"Not found:" if the customer, item or coupon does not exist. Give the order's id if there is one, and the value asked \
for or the new value (status, days, total, amount, address, price, stock, count, level, id) or the reason with its \
figure (status, days, total, coupon or its min, stock) or what was not found. Write numbers in digits."""


class Shop(Protocol):
    """What the policy needs of a store: its reading tools."""

    def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]: ...


CHANGES = ("cancel_order", "update_address", "add_item", "change_quantity", "apply_coupon")


def broken_policy(
    shop: Shop, name: str, arguments: dict[str, Any], *, customer: str | None = None, said: str | None = None
) -> str | None:
    """Say which rule a call would break in the store's present state; None where none or the call is impossible.

    `customer` is the id of the customer who asks (None: not checked), `said` the text of the request, which has to
    state an approval code (None: any code will do).
    """
    if name == "restock_item":
        stock = shop.call("check_stock", {"item_id": arguments.get("item_id")}).get("stock", 0)
        return f"restock: the stock is {stock}, not below {RESTOCK_BELOW}" if stock >= RESTOCK_BELOW else None
    if name not in (*CHANGES, "refund_order", "add_note"):
        return None
    order = shop.call("get_order", {"order_id": arguments.get("order_id")})
    if "error" in order:
        return None
    if customer is not None and order["user"] != customer:
        return f"owner: order {order['id']} is not of customer {customer}"
    if name in CHANGES and order["status"] != "pending":
        return f"status: {name} on an order that is {order['status']}"
    if name == "refund_order":
        return refund_forbidden(shop, order, arguments, said)
    if name == "apply_coupon":
        return coupon_forbidden(shop, order, arguments)
    if name in ("add_item", "change_quantity"):
        stock = shop.call("check_stock", {"item_id": arguments.get("item_id")}).get("stock")
        quantity = arguments.get("quantity")
        if isinstance(stock, int) and isinstance(quantity, int) and quantity > stock:
            return f"stock: {quantity} asked for, {stock} in stock"
    return None


def refund_forbidden(shop: Shop, order: dict[str, Any], arguments: dict[str, Any], said: str | None) -> str | None:
    """Check rules 3 to 5, and that the amount is the total."""
    if order["status"] != "delivered":
        return f"status: refund of an order that is {order['status']}"
    if order["days"] > REFUND_DAYS:
        level = shop.call("get_user", {"user_id": order["user"]})["level"]
        if order["days"] > GOLD_REFUND_DAYS or level != "gold":
            return f"days: refund {order['days']} days after delivery to a {level} customer"
    approval = arguments.get("approval")
    stated = isinstance(approval, str) and (said is None or re.search(rf"\b{re.escape(approval)}\b", said) is not None)
    if order["total"] > APPROVAL_FROM and not stated:
        return f"approval: refund of {order['total']} without an approval code that the request states"
    if arguments.get("amount") != order["total"]:
        return f"amount: refund of {arguments.get('amount')}, total {order['total']}"
    return None


def coupon_forbidden(shop: Shop, order: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Check rule 6."""
    if order["coupon"] is not None:
        return f"coupon: order {order['id']} has coupon {order['coupon']} already"
    least = shop.call("get_coupon", {"code": arguments.get("code")}).get("min")
    if isinstance(least, int) and order["total"] < least:
        return f"coupon: total {order['total']} is below the coupon's min {least}"
    return None
