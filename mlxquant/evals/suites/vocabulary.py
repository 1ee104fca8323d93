"""Names and numbers that questions draw from: rare enough that they are copied and not remembered."""

from __future__ import annotations

from random import Random

_FIRST = (
    "Anneliese", "Bartholomew", "Casimira", "Dagfinn", "Eulalie", "Fyodor", "Gwendolen", "Hjalmar", "Ingeborg",
    "Jacinthe", "Kazimierz", "Leocadia", "Mstislav", "Nkechi", "Oluwaseun", "Perpetua", "Quirin", "Rosalba", "Sigrun",
    "Thaddeus", "Urszula", "Vladislav", "Wilhelmina", "Xochitl", "Yevgenia", "Zbigniew",
)  # fmt: skip
_LAST = (
    "Achterberg", "Bjarnadottir", "Chukwuemeka", "Drzewiecki", "Eszterhazy", "Featherstonehaugh", "Gyllenhaal",
    "Hrabovszky", "Iwaszkiewicz", "Jaroslavsky", "Krzyzanowski", "Llewellyn", "Mnguni", "Nguema", "Oppenraaij",
    "Przybylski", "Quisenberry", "Rzeznik", "Szczepanska", "Tchoupitoulas", "Ugochukwu", "Vytautas", "Wrzesniewski",
    "Xiangyang", "Yastrzemski", "Zwolinski",
)  # fmt: skip
_TOWNS = (
    "Ashgrove", "Belmarsh", "Carrowick", "Dunhallow", "Elverton", "Fennimore", "Gravenstone", "Hartlesea", "Inverbrae",
    "Kestrelby", "Lindenmoor", "Mossgate", "Northerly", "Orrinsdale", "Pellworth", "Quillhaven", "Rowanstead",
    "Saltmarket", "Tarnhow", "Wexcombe",
)  # fmt: skip
_THINGS = (
    "anvil", "barometer", "compass", "dulcimer", "easel", "flask", "gimlet", "hammock", "inkwell", "kettle", "lantern",
    "mandolin", "ottoman", "pulley", "quiver", "rucksack", "sextant", "trowel", "umbrella", "whistle",
)  # fmt: skip


def name(draw: Random) -> str:
    """A first and a last name."""
    return f"{draw.choice(_FIRST)} {draw.choice(_LAST)}"


def names(draw: Random, count: int) -> list[str]:
    """So many names, no two with the same first or last name."""
    pairs = zip(draw.sample(_FIRST, count), draw.sample(_LAST, count), strict=True)
    return [f"{first} {last}" for first, last in pairs]


def towns(draw: Random, count: int) -> list[str]:
    """So many towns, all different."""
    return draw.sample(_TOWNS, count)


def things(draw: Random, count: int) -> list[str]:
    """So many things to buy or to write about, all different."""
    return draw.sample(_THINGS, count)


def a_thing(draw: Random) -> str:
    """A thing with its article."""
    thing = draw.choice(_THINGS)
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def digits(draw: Random, length: int) -> str:
    """A number of so many digits."""
    return str(draw.randrange(10 ** (length - 1), 10**length))


def code(draw: Random) -> str:
    """An id of letters and digits."""
    letters = "".join(draw.choice("BCDFGHJKLMNPQRSTVWXZ") for _ in range(4))
    return f"{letters}-{digits(draw, 6)}-{draw.choice('ACEFHKMPRX')}{digits(draw, 3)}"


def day(draw: Random) -> str:
    """A day as YYYY-MM-DD."""
    return f"{draw.randrange(2021, 2029)}-{draw.randrange(1, 13):02d}-{draw.randrange(1, 29):02d}"
