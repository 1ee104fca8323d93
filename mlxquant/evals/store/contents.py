"""What a store holds at first: its tables, and rows drawn from a seed.

Ids are a letter and four digits, drawn anew for every store, so that none can be learnt by heart.
"""

from __future__ import annotations

import sqlite3
from random import Random

from .words import CITIES, COLORS, FIRST_NAMES, LAST_NAMES, LEVELS, STATUSES, STREETS, THINGS

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
