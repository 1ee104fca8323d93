"""The tools of the store, each with a strict JSON schema.

A schema forbids unknown keys, requires all that is not optional, and pins ids by pattern. Properties stand in the
order in which the oracle writes arguments, so that a trained model sees one order only; a judge ignores the order.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from .words import REASONS

USER_ID = r"^U[0-9]{4}$"
ORDER_ID = r"^O[0-9]{4}$"
ITEM_ID = r"^I[0-9]{4}$"
COUPON = r"^K[0-9]{4}$"
APPROVAL = r"^A[0-9]{4}$"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call: `parameters` is a JSON schema, `writes` whether it changes the store."""

    name: str
    description: str
    parameters: dict[str, Any]
    writes: bool = False


def text(description: str, pattern: str | None = None) -> dict[str, Any]:
    """Describe a string argument."""
    kind: dict[str, Any] = {"type": "string", "description": description}
    return kind | ({"pattern": pattern} if pattern else {"minLength": 1})


def count(description: str, minimum: int = 1, maximum: int = 9999) -> dict[str, Any]:
    """Describe a whole number within bounds."""
    return {"type": "integer", "description": description, "minimum": minimum, "maximum": maximum}


def tool(name: str, description: str, writes: bool, optional: tuple[str, ...] = (), /, **properties: Any) -> Tool:
    """Put a tool's strict schema together: every property is required unless it is named as optional."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": [key for key in properties if key not in optional],
        "additionalProperties": False,
    }
    return Tool(name, description, schema, writes)


ORDER = text("The order's id, such as O1234.", ORDER_ID)
ITEM = text("The item's id, such as I1234.", ITEM_ID)
USER = text("The customer's id, such as U1234.", USER_ID)

TOOLS: tuple[Tool, ...] = (
    tool(
        "find_user",
        "Find customers by full name. Returns the id and city of every customer of that name; the list may be empty,"
        " or hold namesakes, who are told apart by their city.",
        False,
        name=text("First and last name, such as Ana Berg."),
    ),
    tool("get_user", "Get a customer's name, city and level (basic or gold).", False, user_id=USER),
    tool(
        "list_orders",
        "List a customer's orders, the latest first, each with its id and status.",
        False,
        user_id=USER,
    ),
    tool(
        "get_order",
        "Get an order: the customer (user), status, days since it got this status, total, coupon used (or null), and"
        " its items, each with id, name and quantity (n).",
        False,
        order_id=ORDER,
    ),
    tool(
        "search_items",
        "Find the items of one kind. Returns the id and full name (colour and kind) of each; the list may be empty.",
        False,
        kind=text("The kind in the singular, without a colour, such as lamp."),
    ),
    tool("get_item", "Get an item's name and price.", False, item_id=ITEM),
    tool("check_stock", "Get how many pieces of an item are in stock.", False, item_id=ITEM),
    tool(
        "get_coupon",
        "Get a coupon: percent off, and the least total of an order (min) for which it is valid.",
        False,
        code=text("The coupon's code, such as K1234.", COUPON),
    ),
    tool(
        "cancel_order",
        "Cancel an order; its items go back into stock.",
        True,
        order_id=ORDER,
        reason={"type": "string", "enum": list(REASONS.values()), "description": "Why the customer cancels."},
    ),
    tool(
        "update_address",
        "Set the address that an order goes to.",
        True,
        order_id=ORDER,
        street=text("Street and house number, such as Oak Street 12."),
        city=text("City, such as Rome."),
    ),
    tool(
        "add_item",
        "Add pieces of an item to an order. Returns the order's new total.",
        True,
        order_id=ORDER,
        item_id=ITEM,
        quantity=count("How many pieces to add.", maximum=99),
    ),
    tool(
        "change_quantity",
        "Set how many pieces of an item an order holds. Returns the order's new total.",
        True,
        order_id=ORDER,
        item_id=ITEM,
        quantity=count("How many pieces there are to be.", maximum=99),
    ),
    tool(
        "refund_order",
        "Refund an order.",
        True,
        ("approval",),
        order_id=ORDER,
        amount=count("The order's total, which is always refunded in full."),
        approval=text("The approval code that the request states, such as A1234; left out if none.", APPROVAL),
    ),
    tool(
        "apply_coupon",
        "Apply a coupon to an order. Returns the order's new total.",
        True,
        order_id=ORDER,
        code=text("The coupon's code, such as K1234.", COUPON),
    ),
    tool(
        "add_note",
        "Add a note to an order.",
        True,
        order_id=ORDER,
        note=text("The note, word for word as the request states it, without quotation marks."),
    ),
    tool(
        "restock_item",
        "Add pieces of an item to the stock. Returns the new stock.",
        True,
        item_id=ITEM,
        quantity=count("How many pieces came in.", maximum=99),
    ),
)
BY_NAME = {each.name: each for each in TOOLS}


def openai_tools() -> list[dict[str, Any]]:
    """Return the tools as the OpenAI chat API wants them under `tools`."""
    return [
        {
            "type": "function",
            "function": {
                "name": each.name,
                "description": each.description,
                "parameters": copy.deepcopy(each.parameters),
            },
        }
        for each in TOOLS
    ]
