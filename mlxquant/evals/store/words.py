"""The words of the store: names, cities, goods, notes.

Few on purpose. A model of two million parameters with a vocabulary of a thousand tokens has to read and write all of
them, while ids, amounts and their combinations are new in every task: what is asked for is copying and procedure.
Data alone: another word here would make another vocabulary, and another model.
"""

from __future__ import annotations

FIRST_NAMES = (
    *("Ada", "Ana", "Ben", "Bo", "Cai", "Carl", "Dana", "Dora", "Eli", "Emil", "Eva", "Finn", "Gina", "Hans", "Ida"),
    *("Ivan", "Jana", "Jon", "Kai", "Kira", "Lea", "Leo", "Lina", "Mara", "Max", "Mia", "Nils", "Nora", "Olga", "Omar"),
    *("Paul", "Pia", "Rita", "Rosa", "Sam", "Tara", "Tim", "Vera", "Yuri", "Zoe"),
)
LAST_NAMES = (
    *("Abel", "Bach", "Berg", "Blum", "Cole", "Cruz", "Dahl", "Diaz", "Egan", "Falk", "Ford", "Fox", "Gray", "Hahn"),
    *("Holm", "Hunt", "Jung", "Kent", "King", "Koch", "Lang", "Lima", "Lund", "Marx", "Moon", "Nash", "Nunn", "Ochs"),
    *("Park", "Popp", "Rath", "Reed", "Roth", "Silva", "Stein", "Tate", "Ulm", "Vogt", "West", "Wolf"),
)
CITIES = (
    *("Bern", "Bonn", "Cork", "Dover", "Essen", "Graz", "Kiel", "Leeds", "Linz", "Lyon", "Malmo", "Nice", "Oslo"),
    *("Paris", "Porto", "Riga", "Rome", "Turin", "Vigo", "York"),
)
STREETS = ("Bay", "Church", "Elm", "Forest", "Garden", "Hill", "Lake", "Mill", "Oak", "Park", "River", "Station")
COLORS = ("black", "blue", "green", "grey", "red", "white")
THINGS = (
    *("bag", "belt", "bowl", "chair", "clock", "coat", "cup", "desk", "drill", "fan", "glove", "hat", "jar", "kettle"),
    *("lamp", "mat", "pan", "pen", "radio", "scarf"),
)
NOTES = (
    *("call before delivery", "leave at the door", "gift wrap it", "ring twice", "send the invoice by mail"),
    *("give it to the neighbour", "deliver after noon", "handle with care"),
)
# What the user says, and what the tool's enum calls it.
REASONS = {
    "it was ordered twice": "ordered_twice",
    "it takes too long": "too_slow",
    "they changed their mind": "changed_mind",
    "it is too expensive": "too_expensive",
}
STATUSES = ("pending", "shipped", "delivered", "cancelled", "refunded")
LEVELS = ("basic", "gold")
