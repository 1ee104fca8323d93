"""The store itself: an SQLite database in memory, filled from a seed, changed only through tools.

Ids are a letter and four digits, drawn anew for every store, so that none can be learnt by heart. In a list of results
the property that tells an entry apart stands before its id: a causal model can then find the one and copy what follows,
whereas of an id that it has read it cannot know yet what comes next.

A tool does what it is told as long as that is possible at all: like the back office of a real shop it does not know
the policy (`policy` does), so that a model that breaks it leaves a state which shows it. Impossible
calls (an unknown id, an argument of the wrong type) return {"error": …} and change nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any, Final

from .policy import broken_policy
from .tools import BY_NAME
from .words import CITIES, COLORS, FIRST_NAMES, LAST_NAMES, LEVELS, STATUSES, STREETS, THINGS

# --- contents ---


N_USERS = 24
N_COUPONS = 8
SCHEMA = """
CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, city TEXT, level TEXT);
CREATE TABLE items (id TEXT PRIMARY KEY, kind TEXT, name TEXT, price INTEGER, stock INTEGER);
CREATE TABLE coupons (code TEXT PRIMARY KEY, percent INTEGER, least INTEGER);
CREATE TABLE orders (
    id TEXT PRIMARY KEY, user TEXT, placed INTEGER, status TEXT, days INTEGER, coupon TEXT,
    street TEXT, city TEXT, reason TEXT
);
CREATE TABLE lines ("order" TEXT, item TEXT, n INTEGER, PRIMARY KEY ("order", item));
CREATE TABLE refunds ("order" TEXT, amount INTEGER, approval TEXT);
CREATE TABLE notes ("order" TEXT, note TEXT);
CREATE INDEX names ON users (name);
CREATE INDEX kinds ON items (kind);
CREATE INDEX owners ON orders (user);
"""


def ids(rng: Random, letter: str, n: int) -> list[str]:
    """Draw n different ids of a letter and four digits."""
    return [f"{letter}{number}" for number in rng.sample(range(1000, 10000), n)]


def fill(db: sqlite3.Connection, rng: Random) -> None:
    """Fill an empty database: customers (some namesakes in different cities), goods, coupons, orders."""
    names = [f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}" for _ in range(N_USERS)]
    names[-3:] = names[:3]
    users: dict[tuple[str, str], str] = {}
    for user, name in zip(ids(rng, "U", N_USERS), names, strict=True):
        city = rng.choice([each for each in CITIES if (name, each) not in users])
        users[name, city] = user
    levels = [rng.choice(LEVELS) for _ in users]
    rows = [(user, *key, level) for (key, user), level in zip(users.items(), levels, strict=True)]
    db.execute("BEGIN")
    db.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
    goods = [(thing, f"{color} {thing}") for thing in THINGS for color in rng.sample(COLORS, 2)]
    items = ids(rng, "I", len(goods))
    stocked = [
        (item, *good, 5 * rng.randint(1, 24), rng.randint(0, 35)) for item, good in zip(items, goods, strict=True)
    ]
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", stocked)
    terms = [(code, rng.choice((5, 10, 20, 25)), rng.choice((50, 100, 150))) for code in ids(rng, "K", N_COUPONS)]
    db.executemany("INSERT INTO coupons VALUES (?, ?, ?)", terms)
    codes = [code for code, _, _ in terms]
    fill_orders(db, rng, [(user, city) for (_, city), user in users.items()], items, codes)
    db.execute("COMMIT")


def fill_orders(
    db: sqlite3.Connection, rng: Random, users: list[tuple[str, str]], items: list[str], codes: list[str]
) -> None:
    """Give every customer one to four orders of one to three items each."""
    owners = [owner for owner in users for _ in range(rng.randint(1, 4))]
    for placed, (order, (user, city)) in enumerate(zip(ids(rng, "O", len(owners)), owners, strict=True)):
        status = rng.choices(STATUSES, (45, 15, 32, 4, 4))[0]
        street = f"{rng.choice(STREETS)} Street {rng.randint(1, 99)}"
        days = rng.randint(0, 30) if rng.random() < 0.7 else rng.randint(31, 90)
        coupon = rng.choice(codes) if rng.random() < 0.15 else None
        row = (order, user, placed, status, days, coupon, street, city, None)
        db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        lines = [(order, item, rng.randint(1, 3)) for item in rng.sample(items, rng.choice((1, 1, 2)))]
        db.executemany("INSERT INTO lines VALUES (?, ?, ?)", lines)


# --- database ---


TABLES: Final = ("users", "items", "coupons", "orders", "lines", "refunds", "notes")
Result = dict[str, Any]


class Unknown(Exception):
    """A tool was asked for something that the store does not hold; the text is handed to the model."""


def usable(value: object, kind: str) -> bool:
    """Whether the database can take a value: text that UTF-8 can hold, or a whole number that is not absurd."""
    if kind == "string":
        return isinstance(value, str) and value.isprintable()
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6


class Store:
    """One shop in memory. Two stores of the same seed that got the same calls are in the same state.

    Close it, or use it as a context manager; a forgotten one is closed when it is collected.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.db.executescript(SCHEMA)
        fill(self.db, Random(f"mlxquant.store {seed}"))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Free the database."""
        self.db.close()

    def copy(self) -> Store:
        """Return an independent store in the same state."""
        other = Store.__new__(Store)
        other.seed = self.seed
        other.db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.db.backup(other.db)
        return other

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one query that reads."""
        return self.db.execute(query, values).fetchall()

    def state(self) -> dict[str, list[list[Any]]]:
        """Return all tables, rows sorted, as JSON values: equal states are equal objects."""
        return {table: sorted((list(row) for row in self.rows(f"SELECT * FROM {table}")), key=repr) for table in TABLES}

    def call(self, name: Any, arguments: Any) -> Result:
        """Run a tool and return its result, or {"error": …} where that is impossible; never raises on model input."""
        if not isinstance(name, str) or name not in HANDLERS:
            return {"error": f"no tool {name!a:.80}"}
        if not isinstance(arguments, dict):
            return {"error": "arguments must be an object"}
        schema = BY_NAME[name].parameters
        for key, value in arguments.items():
            if key not in schema["properties"]:
                return {"error": f"unknown argument {key}"}
            if not usable(value, schema["properties"][key]["type"]):
                return {"error": f"bad value for {key}"}
        missing = [key for key in schema["required"] if key not in arguments]
        if missing:
            return {"error": f"missing argument {missing[0]}"}
        try:
            return HANDLERS[name](self, **arguments)
        except Unknown as error:
            return {"error": str(error)}

    def broken_policy(
        self, name: str, arguments: dict[str, Any], *, customer: str | None = None, said: str | None = None
    ) -> str | None:
        """Say which rule a call would break now; None for none. See `mlxquant.evals.store.policy.broken_policy`."""
        return broken_policy(self, name, arguments, customer=customer, said=said)

    def row(self, table: str, key: str, value: str) -> tuple[Any, ...]:
        """Return the one row of that id; raises Unknown where there is none."""
        column = "code" if table == "coupons" else "id"
        values = self.db.execute(f"SELECT {key} FROM {table} WHERE {column} = ?", (value,)).fetchone()
        if values is None:
            raise Unknown(f"no {table[:-1]} {value}")
        return tuple(values)

    def total(self, order_id: str) -> int:
        """Return an order's price: sum of n × price, less the coupon's percent, rounded down.

        Worked: 2 × 35 + 1 × 15 = 85 with 10 % off: 85 * 90 // 100 = 76.
        """
        query = 'SELECT COALESCE(SUM(n * price), 0) FROM lines JOIN items ON items.id = item WHERE "order" = ?'
        ((full,),) = self.rows(query, order_id)
        off = self.rows("SELECT percent FROM coupons JOIN orders ON code = coupon WHERE orders.id = ?", order_id)
        return int(full) * (100 - (off[0][0] if off else 0)) // 100


def find_user(store: Store, name: str) -> Result:
    """Find customers by name."""
    users = store.rows("SELECT id, city FROM users WHERE name = ? COLLATE NOCASE ORDER BY id", name.strip())
    return {"users": [{"city": city, "id": user} for user, city in users]}


def get_user(store: Store, user_id: str) -> Result:
    """Return a customer's record."""
    name, city, level = store.row("users", "name, city, level", user_id)
    return {"id": user_id, "name": name, "city": city, "level": level}


def list_orders(store: Store, user_id: str) -> Result:
    """List a customer's orders, the latest first."""
    store.row("users", "id", user_id)
    orders = store.rows("SELECT id, status FROM orders WHERE user = ? ORDER BY placed DESC", user_id)
    return {"orders": [{"status": status, "id": order} for order, status in orders]}


def get_order(store: Store, order_id: str) -> Result:
    """Return an order with its items."""
    user, status, days, coupon = store.row("orders", "user, status, days, coupon", order_id)
    lines = store.rows(
        'SELECT items.id, name, n FROM lines JOIN items ON items.id = item WHERE "order" = ? ORDER BY lines.rowid',
        order_id,
    )
    items = [{"name": name, "id": item, "n": n} for item, name, n in lines]
    facts = {"id": order_id, "user": user, "status": status, "days": days}
    return facts | {"total": store.total(order_id), "coupon": coupon, "items": items}


def search_items(store: Store, kind: str) -> Result:
    """Find items of a kind."""
    items = store.rows("SELECT id, name FROM items WHERE kind = ? COLLATE NOCASE ORDER BY id", kind.strip())
    return {"items": [{"name": name, "id": item} for item, name in items]}


def get_item(store: Store, item_id: str) -> Result:
    """Return an item's name and price."""
    name, price = store.row("items", "name, price", item_id)
    return {"id": item_id, "name": name, "price": price}


def check_stock(store: Store, item_id: str) -> Result:
    """Return an item's stock."""
    (stock,) = store.row("items", "stock", item_id)
    return {"id": item_id, "stock": stock}


def get_coupon(store: Store, code: str) -> Result:
    """Return a coupon's terms."""
    percent, least = store.row("coupons", "percent, least", code)
    return {"code": code, "percent": percent, "min": least}


def cancel_order(store: Store, order_id: str, reason: str) -> Result:
    """Cancel an order and put its items back."""
    store.row("orders", "id", order_id)
    store.db.execute("UPDATE orders SET status = 'cancelled', days = 0, reason = ? WHERE id = ?", (reason, order_id))
    for item, n in store.rows('SELECT item, n FROM lines WHERE "order" = ?', order_id):
        store.db.execute("UPDATE items SET stock = stock + ? WHERE id = ?", (n, item))
    return {"id": order_id, "status": "cancelled"}


def update_address(store: Store, order_id: str, street: str, city: str) -> Result:
    """Set where an order goes."""
    store.row("orders", "id", order_id)
    store.db.execute("UPDATE orders SET street = ?, city = ? WHERE id = ?", (street, city, order_id))
    return {"id": order_id, "street": street, "city": city}


def set_line(store: Store, order_id: str, item_id: str, n: int, taken: int) -> Result:
    """Make an order hold n pieces of an item, of which `taken` come from the stock now."""
    store.db.execute(
        'INSERT INTO lines VALUES (?, ?, ?) ON CONFLICT ("order", item) DO UPDATE SET n = excluded.n',
        (order_id, item_id, n),
    )
    store.db.execute("UPDATE items SET stock = stock - ? WHERE id = ?", (taken, item_id))
    return {"id": order_id, "total": store.total(order_id)}


def held(store: Store, order_id: str, item_id: str) -> int:
    """Count the pieces of an item in an order; raises Unknown where there is no such order or item."""
    store.row("orders", "id", order_id)
    store.row("items", "id", item_id)
    lines = store.rows('SELECT n FROM lines WHERE "order" = ? AND item = ?', order_id, item_id)
    return int(lines[0][0]) if lines else 0


def add_item(store: Store, order_id: str, item_id: str, quantity: int) -> Result:
    """Add pieces of an item to an order."""
    return set_line(store, order_id, item_id, held(store, order_id, item_id) + quantity, quantity)


def change_quantity(store: Store, order_id: str, item_id: str, quantity: int) -> Result:
    """Set the pieces of an item that an order holds already."""
    before = held(store, order_id, item_id)
    if not before:
        raise Unknown(f"no item {item_id} in order {order_id}")
    return set_line(store, order_id, item_id, quantity, quantity - before)


def refund_order(store: Store, order_id: str, amount: int, approval: str | None = None) -> Result:
    """Pay an amount back."""
    store.row("orders", "id", order_id)
    store.db.execute("INSERT INTO refunds VALUES (?, ?, ?)", (order_id, amount, approval))
    store.db.execute("UPDATE orders SET status = 'refunded', days = 0 WHERE id = ?", (order_id,))
    return {"id": order_id, "status": "refunded", "amount": amount}


def apply_coupon(store: Store, order_id: str, code: str) -> Result:
    """Take a coupon's percent off an order."""
    store.row("orders", "id", order_id)
    store.row("coupons", "code", code)
    store.db.execute("UPDATE orders SET coupon = ? WHERE id = ?", (code, order_id))
    return {"id": order_id, "total": store.total(order_id)}


def add_note(store: Store, order_id: str, note: str) -> Result:
    """Keep a note with an order."""
    store.row("orders", "id", order_id)
    store.db.execute("INSERT INTO notes VALUES (?, ?)", (order_id, note))
    return {"id": order_id, "note": note}


def restock_item(store: Store, item_id: str, quantity: int) -> Result:
    """Add pieces to the stock."""
    store.row("items", "id", item_id)
    store.db.execute("UPDATE items SET stock = stock + ? WHERE id = ?", (quantity, item_id))
    return check_stock(store, item_id)


HANDLERS: Final[dict[str, Callable[..., Result]]] = {
    each.__name__: each
    for each in (
        *(find_user, get_user, list_orders, get_order, search_items, get_item, check_stock, get_coupon),
        *(cancel_order, update_address, add_item, change_quantity, refund_order, apply_coupon, add_note, restock_item),
    )
}
