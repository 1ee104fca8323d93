"""Three worlds of work: a greenhouse, a bank, a workshop. CC0 1.0."""

from __future__ import annotations

from random import Random

from benchmarks.quality_set.domain import Called, Domain, Request, tool
from benchmarks.quality_set.words import THINGS, TOWNS, clock, code_id, email, number_id, person

# --- a greenhouse


def _sensor(draw: Random) -> Request:
    bay = draw.randrange(1, 40)
    moisture, wanted = draw.randrange(8, 30), draw.randrange(31, 60)
    minutes = (wanted - moisture + 1) // 2
    asked = draw.choice(
        (
            f"Bay {bay} looks dry. Bring it to {wanted} percent.",
            f"Water bay {bay} until it should reach {wanted} percent moisture.",
            f"What is the soil like in bay {bay}? It ought to be at {wanted} percent; water it if not.",
        )
    )
    rounds = [
        [("read_sensor", {"bay": bay, "kind": "moisture"}, {"percent": moisture, "at": clock(draw)})],
        [("open_valve", {"bay": bay, "minutes": minutes}, {"litres": minutes * 6})],
    ]
    said = f"Bay {bay} was at {moisture} percent. It gets water for {minutes} minutes, {minutes * 6} litres at 2 percent a minute."
    return asked, rounds, said


def _heat(draw: Random) -> Request:
    bays = draw.sample(range(1, 40), 3)
    read = [round(draw.uniform(9, 31), 1) for _ in bays]
    calls: list[Called] = [
        ("read_sensor", {"bay": b, "kind": "temperature"}, {"celsius": t}) for b, t in zip(bays, read, strict=True)
    ]
    coldest = min(range(3), key=lambda i: read[i])
    goal = draw.randrange(16, 24)
    second: list[list[Called]] = []
    said = f"Bay {bays[coldest]} is the coldest with {read[coldest]} °C"
    if read[coldest] < goal:
        second = [[("set_heater", {"bay": bays[coldest], "celsius": goal}, {"watts": draw.randrange(200, 1900, 50)})]]
        said += f"; its heater is set to {goal} °C."
    else:
        said += f", which is warm enough: nothing needs to reach {goal} °C."
    asked = draw.choice(
        (
            f"Which of the bays {bays[0]}, {bays[1]} and {bays[2]} is coldest? Heat that one to {goal} if it is below.",
            f"Check bays {', '.join(map(str, bays))}: the coldest should have at least {goal} degrees.",
        )
    )
    return asked, [calls, *second], said


GREENHOUSE = Domain(
    "greenhouse",
    "You run a greenhouse of 39 bays. Water raises moisture by 2 percent a minute. Read a sensor before you act on it.",
    (
        tool("read_sensor", "A reading of one bay", bay="integer:1 to 39", kind=("moisture", "temperature", "light")),
        tool("open_valve", "Water a bay", bay="integer", minutes="integer:At most 60"),
        tool("set_heater", "Let a bay's heater hold a temperature", bay="integer", celsius="number"),
        tool("plant_log", "What grows in a bay", bay="integer", since="string?:YYYY-MM-DD"),
    ),
    (_sensor, _heat),
)


# --- accounts


def _transfer(draw: Random) -> Request:
    source, goal, name = number_id(draw, 12), number_id(draw, 12), person(draw)
    amount, balance = draw.randrange(1500, 90000), draw.randrange(100000, 900000)
    asked = draw.choice(
        (
            f"Send {amount / 100:.2f} from {source} to {name}, account {goal}.",
            f"Please transfer {amount / 100:.2f} to {goal} ({name}). It goes off {source}.",
        )
    )
    reference = code_id(draw)
    rounds = [
        [("account_balance", {"account": source}, {"cents": balance})],
        [("transfer", {"from": source, "to": goal, "cents": amount, "name": name}, {"reference": reference})],
    ]
    left = balance - amount
    said = f"{amount / 100:.2f} went to {name} ({goal}), reference {reference}. {left / 100:.2f} are left on {source}."
    return asked, rounds, said


def _spending(draw: Random) -> Request:
    account = number_id(draw, 12)
    month = f"{draw.randrange(2024, 2027)}-{draw.randrange(1, 13):02d}"
    entries = [{"shop": draw.choice(TOWNS) + " Stores", "cents": -draw.randrange(300, 20000)} for _ in range(4)]
    total = -sum(int(entry["cents"]) for entry in entries)
    asked = draw.choice(
        (
            f"How much did I spend from {account} in {month}?",
            f"Add up what left account {account} in {month}, please.",
        )
    )
    said = (
        f"{total / 100:.2f} in four payments: "
        + ", ".join(f"{-int(e['cents']) / 100:.2f} at {e['shop']}" for e in entries)
        + "."
    )
    return asked, [[("list_entries", {"account": account, "month": month}, {"entries": entries})]], said


BANK = Domain(
    "bank",
    "You work for a small bank. Amounts go to the tools in cents. Check a balance before you send money from it.",
    (
        tool("account_balance", "Money on an account", account="string:Twelve digits"),
        tool("transfer", "Send money", **{"from": "string", "to": "string", "cents": "integer", "name": "string"}),
        tool("list_entries", "Payments of a month", account="string", month="string:YYYY-MM"),
        tool("freeze_card", "Stop a card", card="string:Last four digits", reason=("lost", "stolen", "unknown payment")),
    ),
    (_transfer, _spending),
)  # fmt: skip


# --- a workshop


def _restock(draw: Random) -> Request:
    part, thing = code_id(draw), draw.choice(THINGS)
    have, need = draw.randrange(0, 40), draw.randrange(50, 400)
    supplier, name = draw.choice(TOWNS) + " Supply", person(draw)
    price = draw.randrange(5, 900)
    asked = draw.choice(
        (
            f"{name} wants {need} of {part}. Order what is missing.",
            f"We need {need} pieces of part {part} in the bin. Fill it up.",
            f"Check {part} and bring the stock to {need}.",
        )
    )
    order = number_id(draw, 9)
    rounds = [
        [("lookup_part", {"part": part}, {"name": thing, "stock": have, "supplier": supplier, "cents": price})],
        [("order_part", {"part": part, "quantity": need - have, "supplier": supplier}, {"order": int(order)})],
    ]
    said = f"{need - have} of {part} ({thing}) are ordered from {supplier} for {(need - have) * price / 100:.2f}, order {order}."
    return asked, rounds, said


def _move(draw: Random) -> Request:
    part, thing = code_id(draw), draw.choice(THINGS)
    bins = [f"{draw.choice('NSEW')}{draw.randrange(1, 80)}" for _ in range(2)]
    count = draw.randrange(2, 60)
    name = person(draw)
    asked = draw.choice(
        (
            f"Move all {thing}s ({part}) from bin {bins[0]} to {bins[1]} and tell {email(name)}.",
            f"Bin {bins[0]} has to be empty. Put the {part} into {bins[1]}; {email(name)} should know.",
        )
    )
    rounds: list[list[Called]] = [
        [("count_bin", {"bin": bins[0]}, {"part": part, "count": count})],
        [("move_stock", {"part": part, "count": count, "from": bins[0], "to": bins[1]}, {"ok": True}),
         ("send_note", {"to": email(name), "text": f"{count} x {part} moved to {bins[1]}"}, {"sent": True})],
    ]  # fmt: skip
    return asked, rounds, f"{count} pieces of {part} are in {bins[1]} now, and {email(name)} has a note of it."


WORKSHOP = Domain(
    "workshop",
    "You look after the stores of a workshop. Order only what is missing. Count a bin before you move what is in it.",
    (
        tool("lookup_part", "Name, stock, supplier and price of a part", part="string:Such as ABC-1234-K56"),
        tool("order_part", "Order from the part's supplier", part="string", quantity="integer", supplier="string"),
        tool("count_bin", "What lies in a bin", bin="string"),
        tool(
            "move_stock",
            "Move pieces between bins",
            part="string",
            count="integer",
            **{"from": "string", "to": "string"},
        ),
        tool("send_note", "Write to a colleague", to="string:Address", text="string"),
    ),
    (_restock, _move),
)
