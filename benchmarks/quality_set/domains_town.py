"""Three worlds of a town: a calendar, a library, trains. CC0 1.0."""

from __future__ import annotations

from random import Random

from benchmarks.quality_set.domain import Called, Domain, Request, tool
from benchmarks.quality_set.words import TOWNS, clock, code_id, date, number_id, person

# --- a calendar


def _free_slot(draw: Random) -> Request:
    who, day, length = person(draw), date(draw), draw.choice((15, 30, 45, 60, 90))
    slots = sorted({clock(draw) for _ in range(3)})
    room, booking = draw.choice("ABCDEF") + str(draw.randrange(1, 9)), number_id(draw, 7)
    book = {"day": day, "start": slots[0], "minutes": length, "with": who}
    asked = draw.choice(
        (
            f"Put {length} minutes with {who} on my calendar for {day}, as early as it goes.",
            f"I need to talk to {who} on {day}. {length} minutes, first free slot, please.",
            f"Can you book {who} and me for {length} min on {day}? Earliest wins.",
        )
    )
    said = draw.choice(
        (
            f"Booked: {day} at {slots[0]}, {length} minutes with {who} in room {room}. The booking is {booking}.",
            f"You meet {who} on {day} at {slots[0]} in {room} (booking {booking}).",
        )
    )
    first = ("find_slots", {"day": day, "minutes": length}, {"free": slots})
    return asked, [[first], [("book_meeting", book, {"booking": int(booking), "room": room})]], said


def _cancel_meeting(draw: Random) -> Request:
    day, who, other = date(draw), person(draw), person(draw)
    ids = [int(number_id(draw, 7)) for _ in range(2)]
    times = sorted((clock(draw), clock(draw)))
    held = [{"booking": i, "start": t, "with": w} for i, t, w in zip(ids, times, (who, other), strict=True)]
    asked = draw.choice(
        (
            f"Cancel whatever I have with {who} on {day}.",
            f"{who} is ill. Please drop our meeting on {day}.",
            f"Take the {day} appointment with {who} off my calendar.",
        )
    )
    rounds = [
        [("list_meetings", {"day": day}, {"meetings": held})],
        [("cancel_meeting", {"booking": ids[0], "notify": True}, {"cancelled": ids[0]})],
    ]
    return (
        asked,
        rounds,
        f"Done. The {times[0]} meeting with {who} ({ids[0]}) is cancelled; {other} at {times[1]} stays.",
    )


CALENDAR = Domain(
    "calendar",
    "You keep a calendar. Look before you book, never move a meeting that was not mentioned, and confirm in a sentence.",
    (
        tool("find_slots", "Free times of a day", day="string:YYYY-MM-DD", minutes="integer:Length of the meeting"),
        tool("book_meeting", "Book a meeting at a free time", day="string", start="string:HH:MM", minutes="integer",
             **{"with": "string:Full name"}),
        tool("list_meetings", "All meetings of a day", day="string:YYYY-MM-DD"),
        tool("cancel_meeting", "Cancel one meeting", booking="integer", notify="boolean?:Tell the others"),
    ),
    (_free_slot, _cancel_meeting),
)  # fmt: skip


# --- a library


def _reserve_book(draw: Random) -> Request:
    title = (
        f"The {draw.choice(('Salt', 'Glass', 'Winter', 'Paper', 'Hollow', 'Second', 'Amber', 'Quiet'))} "
        + draw.choice(("Ferry", "Orchard", "Cartographer", "Lighthouse", "Archive", "Bridge", "Meridian", "Apprentice"))
    )
    author, member = person(draw), number_id(draw, 8)
    copies = [
        {"copy": code_id(draw), "branch": town, "on_shelf": draw.random() < 0.5} for town in draw.sample(TOWNS, 2)
    ]
    copies[0]["on_shelf"] = True
    branch = copies[0]["branch"]
    asked = draw.choice(
        (
            f"Reserve {title!r} by {author} for member {member}, any branch that has it.",
            f"Member {member} here. Is {title!r} in? If so, hold it for me.",
            f"Could you put {title!r} aside? My card is {member}.",
        )
    )
    until = date(draw)
    rounds = [
        [("search_books", {"title": title}, {"author": author, "copies": copies})],
        [("reserve_copy", {"copy": copies[0]["copy"], "member": int(member)}, {"held_until": until})],
    ]
    return asked, rounds, f"{title} is held for you in {branch} until {until}; the copy is {copies[0]['copy']}."


def _renew(draw: Random) -> Request:
    member = number_id(draw, 8)
    loans = [{"copy": code_id(draw), "due": date(draw), "renewals": draw.randrange(0, 4)} for _ in range(3)]
    renewed: list[Called] = []
    for loan in loans:
        if loan["renewals"] < 3:
            new = date(draw)
            renewed.append(("renew_loan", {"copy": loan["copy"]}, {"due": new}))
    kept = [loan["copy"] for loan in loans if loan["renewals"] >= 3]
    said = "; ".join(f"{arguments['copy']} is now due {result['due']}" for _, arguments, result in renewed)
    if kept:
        said += f"{'; ' if said else ''}{', '.join(kept)} had three renewals already and must come back"
    asked = draw.choice(
        (
            f"Please extend all my loans, card number {member}.",
            f"Renew everything on {member} that can be renewed.",
            f"My card is {member}. What can stay with me longer?",
        )
    )
    return (
        asked,
        [[("member_loans", {"member": int(member)}, {"loans": loans})], *([renewed] if renewed else [])],
        f"{said}.",
    )


LIBRARY = Domain(
    "library",
    "You are the desk of a town library. A loan may be renewed three times. Hold only copies that are on the shelf.",
    (
        tool("search_books", "Find a title and its copies", title="string", author="string?"),
        tool("reserve_copy", "Hold a copy for a member", copy="string:Copy id such as ABC-1234-K56", member="integer"),
        tool("member_loans", "What a member has at home", member="integer:Eight digits"),
        tool("renew_loan", "Extend one loan by three weeks", copy="string"),
    ),
    (_reserve_book, _renew),
)


# --- trains


def _book_train(draw: Random) -> Request:
    start, goal = draw.sample(TOWNS, 2)
    day, latest = date(draw), clock(draw)
    trains = [
        {"train": f"R{draw.randrange(100, 999)}", "leaves": clock(draw), "changes": draw.randrange(0, 3), "fare": fare}
        for fare in draw.sample(range(9, 80), 3)
    ]
    best = min(trains, key=lambda t: int(t["fare"]))
    name, seat = person(draw), f"{draw.randrange(1, 12)}{draw.choice('ABCD')}"
    ticket = number_id(draw, 10)
    asked = draw.choice(
        (
            f"The cheapest train from {start} to {goal} on {day}, for {name}.",
            f"{name} has to be in {goal} on {day}, coming from {start}. Whatever costs least.",
            f"Book {start} to {goal} for {day}. Passenger: {name}. Keep it cheap; {latest} is the latest I would leave.",
        )
    )
    rounds = [
        [("find_trains", {"from": start, "to": goal, "day": day}, {"trains": trains})],
        [("book_seat", {"train": best["train"], "day": day, "passenger": name}, {"ticket": ticket, "seat": seat})],
    ]
    said = f"{name} travels on {best['train']} at {best['leaves']} for {best['fare']} crowns: seat {seat}, ticket {ticket}."
    return asked, rounds, said


def _station(draw: Random) -> Request:
    towns = draw.sample(TOWNS, 2)
    facts = [
        {"lifts": draw.random() < 0.5, "platforms": draw.randrange(2, 14), "lockers": draw.randrange(0, 60)}
        for _ in towns
    ]
    calls: list[Called] = [("station_info", {"station": t}, f) for t, f in zip(towns, facts, strict=True)]
    asked = draw.choice(
        (
            f"Which has more lockers, the station in {towns[0]} or the one in {towns[1]}? And are there lifts?",
            f"Compare the stations of {towns[0]} and {towns[1]} for me: lockers and lifts.",
        )
    )
    said = " ".join(
        f"{t} has {f['lockers']} lockers and {'a lift' if f['lifts'] else 'no lift'}."
        for t, f in zip(towns, facts, strict=True)
    )
    return asked, [calls], said


TRAINS = Domain(
    "trains",
    "You sell regional train tickets. Fares are in crowns. Ask nothing that the user has already said.",
    (
        tool("find_trains", "Connections of a day", **{"from": "string", "to": "string", "day": "string:YYYY-MM-DD"}),
        tool("book_seat", "Buy a ticket with a seat", train="string", day="string", passenger="string:Full name"),
        tool("station_info", "Lifts, platforms and lockers of a station", station="string"),
        tool("refund_ticket", "Give a ticket back", ticket="string:Ten digits", reason=("ill", "delay", "other")),
    ),
    (_book_train, _station),
)  # fmt: skip
