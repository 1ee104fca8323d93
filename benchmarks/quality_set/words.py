"""Names and numbers that the grammars draw from. Invented for this project; CC0 1.0."""

from __future__ import annotations

from random import Random

FIRST = (
    "Amara", "Bjorn", "Chidi", "Dalia", "Emeka", "Farah", "Goran", "Hana", "Ivo", "Jolanta", "Kenji", "Leila", "Marek",
    "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Stellan", "Tomasz", "Ulla", "Vikram", "Wanda", "Ximena", "Yusuf",
    "Zofia",
)  # fmt: skip
LAST = (
    "Abendroth", "Brzezinski", "Castellanos", "Dvorak", "Eriksdottir", "Fontaine", "Grabowski", "Hakimi", "Ishikawa",
    "Jablonsky", "Kowalczyk", "Lindqvist", "Mbeki-Thorne", "Nakagawa", "Oyelaran", "Petrosyan", "Quispe", "Rautavaara",
    "Szymanski", "Tsvetaeva", "Uccello", "Vandenberghe", "Wojcik", "Xanthopoulos", "Yilmazer", "Zuberbuehler",
)  # fmt: skip
TOWNS = (
    "Arlesund", "Brackwater", "Corvane", "Dunmere", "Eastfold", "Ferrowick", "Galten", "Hollinford", "Ilsey", "Jarrow",
    "Kelvin Bay", "Lowmarsh", "Marrick", "Northgate", "Ostrava Mills", "Penhallow", "Quarley", "Ravenstow", "Silverton",
    "Thornbury",
)  # fmt: skip
THINGS = (
    "copper valve", "brass hinge", "oak panel", "glass beaker", "steel bracket", "rubber gasket", "ceramic tile",
    "cotton filter", "nylon strap", "quartz lens", "iron clamp", "paper spool", "carbon rod", "silver contact",
    "pine board", "felt washer", "zinc plate", "wool blanket", "tin funnel", "marble slab",
)  # fmt: skip


def person(draw: Random) -> str:
    """A full name."""
    return f"{draw.choice(FIRST)} {draw.choice(LAST)}"


def email(name: str) -> str:
    """The address that goes with a name."""
    return name.lower().replace(" ", ".") + "@mail.test"


def number_id(draw: Random, digits: int) -> str:
    """An id of so many digits, the first of them not 0."""
    return str(draw.randrange(10 ** (digits - 1), 10**digits))


def code_id(draw: Random) -> str:
    """An id of letters and digits, as parts and bookings have."""
    letters = "".join(draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(3))
    return f"{letters}-{draw.randrange(1000, 10000)}-{draw.choice('KLMNPQRS')}{draw.randrange(10, 100)}"


def date(draw: Random) -> str:
    """A day of one of three years, as YYYY-MM-DD."""
    return f"{draw.randrange(2024, 2027)}-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}"


def clock(draw: Random) -> str:
    """A time of day in steps of five minutes."""
    return f"{draw.randrange(6, 22):02d}:{draw.randrange(0, 60, 5):02d}"
