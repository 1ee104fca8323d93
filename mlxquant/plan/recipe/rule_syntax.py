"""How rules are written: a TOML table, or `MATCH:ACTION` behind `--set`.

Reading reports every mistake, never only the first: each function adds to a list of problems, one a line, that
say where, what was found and what is valid.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...words.formats import MODES
from ...words.layers import Span, parse_layers
from ...words.modules import LAYER_TYPE_WORDS, LAYER_TYPES, ROLES
from .rules import SET_ORIGIN, Match, Rule

USES = ("model", "default")
MATCH_KEYS = ("role", "layer_type", "layers", "path")
RULE_KEYS = ("match", "keep", "bits", "group_size", "mode", "use", "reason", "optional")


def nearest(word: object, valid: Iterable[str]) -> str:
    """``" (did you mean 'router'?)"`` where a valid word is near, else nothing."""
    found = difflib.get_close_matches(str(word), list(valid), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def unknown_keys(table: Mapping[str, Any], valid: Sequence[str], where: str) -> list[str]:
    """One problem for each key that means nothing, with the keys that do."""
    return [
        f"{where}: unknown key {key!r}{nearest(key, valid)}; valid: {', '.join(valid)}"
        for key in table
        if key not in valid
    ]


def parse_rule(table: object, *, origin: str, index: int, where: str, problems: list[str]) -> Rule | None:
    """Read a rule from its TOML table. Adds every mistake to `problems`; None where there is one."""
    if not isinstance(table, dict):
        problems.append(f"{where}: a rule is a table, not {table!r}; write [[rules]]")
        return None
    found = unknown_keys(table, RULE_KEYS, where)
    match = _match(table.get("match", {}), where, found)
    found += format_problems(table, where)
    for key in ("keep", "optional"):
        if not isinstance(table.get(key, False), bool):
            found.append(f"{where}: {key} is true or false, not {table[key]!r}")
    use = table.get("use")
    if use is not None and use not in USES:
        found.append(f"{where}: use is {' or '.join(USES)}, not {use!r}{nearest(use, USES)}")
    found += _action_problems(table, where)
    reason = table.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        found.append(f"{where}: every rule needs a reason; it ends up in the audit")
    problems += found
    if found:
        return None
    return Rule(
        match=match,
        reason=str(reason),
        keep=table.get("keep", False),
        bits=table.get("bits"),
        group_size=table.get("group_size"),
        mode=table.get("mode"),
        use=use,
        optional=table.get("optional", False),
        origin=origin,
        index=index,
    )


def format_problems(table: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with the types and names of bits, group_size and mode; their combination is checked later."""
    found = []
    for key in ("bits", "group_size"):
        value = table.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            found.append(f"{where}: {key} is a whole number, not {value!r}")
    mode = table.get("mode")
    if mode is not None and not (isinstance(mode, str) and mode in MODES):
        found.append(f"{where}: unknown mode {mode!r}{nearest(mode, MODES)}; mlx has {', '.join(MODES)}")
    return found


def _action_problems(table: Mapping[str, Any], where: str) -> list[str]:
    keeps = table.get("keep") is True
    formats = [key for key in ("bits", "group_size", "mode") if key in table]
    asked = (["keep"] if keeps else []) + formats + (["use"] if "use" in table else [])
    if not asked and table.get("keep") is False:
        return [f"{where}: keep = false means nothing; use=default gives the default, whatever a later rule says"]
    if not asked:
        return [f"{where}: it asks for nothing; give keep = true, bits, group_size, mode or use"]
    if len(asked) > len(formats) and len(asked) > 1:
        return [f"{where}: {' and '.join(asked)} exclude each other; give one"]
    return []


def _match(value: object, where: str, problems: list[str]) -> Match:
    """Read a match table; mistakes go to `problems`."""
    if not isinstance(value, dict):
        problems.append(f'{where}: match is a table such as {{ role = "router" }}, not {value!r}')
        return Match()
    where = f"{where}, match"
    problems += unknown_keys(value, MATCH_KEYS, where)
    roles = _words(value, "role", where, problems)
    types = _words(value, "layer_type", where, problems)
    types = tuple(dict.fromkeys(LAYER_TYPE_WORDS.get(name, name) for name in types))
    for key, names, valid in (("role", roles, ROLES), ("layer_type", types, LAYER_TYPES)):
        for name in names:
            if name not in valid:
                problems.append(f"{where}: unknown {key} {name!r}{nearest(name, valid)}; valid: {', '.join(valid)}")
    paths = _words(value, "path", where, problems)
    for path in paths:
        if "{" in path or "|" in path:
            problems.append(f"{where}: path {path!r} is a glob (* ? [abc]); for alternatives give a list")
    layers: tuple[Span, ...] = ()
    if "layers" in value:
        try:
            layers = parse_layers(value["layers"])
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return Match(roles, types, layers, paths)


def _words(table: Mapping[str, Any], key: str, where: str, problems: list[str]) -> tuple[str, ...]:
    """A text or a list of texts as a tuple."""
    value = table.get(key, [])
    words = value if isinstance(value, list) else [value]
    if (key in table and not words) or not all(isinstance(word, str) and word for word in words):
        problems.append(f"{where}: {key} is a text or a list of texts, not {value!r}")
        return ()
    return tuple(words)


def parse_set(text: str, *, index: int, problems: list[str]) -> Rule | None:
    """Read one `--set`, ``MATCH:ACTION``, as a rule.

    Both sides are keys of a rule, separated by commas; a word without a key goes on with the list before it:
    ``role=router,embedding:keep``, ``path=*.v_proj,layers=0..1/8,7/8..:bits=6,group_size=32``. An empty MATCH
    is every module.
    """
    where = f"--set {text!r}"
    match_text, colon, action_text = text.partition(":")
    if not colon:
        problems.append(f'{where}: no ":" found; write MATCH:ACTION, as in "role=attention:bits=6"')
        return None
    found: list[str] = []
    match = {key: values[0] if len(values) == 1 else values for key, values in _pairs(match_text, where, found)}
    action: dict[str, Any] = {}
    for key, values in _pairs(action_text, where, found, flags=("keep", "optional")):
        if key in ("match", "reason"):
            found.append(f"{where}: {key} cannot stand behind the colon")
        words = [_value(word) for word in values]
        action[key] = words[0] if len(words) == 1 else words
    if found:
        problems += found
        return None
    table = {"match": match, "reason": f"asked for on the command line: --set {text}", **action}
    return parse_rule(table, origin=SET_ORIGIN, index=index, where=where, problems=problems)


def _value(word: str) -> int | bool | str:
    if word in ("true", "false"):
        return word == "true"
    return int(word) if re.fullmatch(r"-?\d{1,18}", word) else word


def _pairs(text: str, where: str, problems: list[str], flags: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Split ``a=1,2,b=3`` into keys and their lists; a flag stands alone and means true."""
    pairs: list[tuple[str, list[str]]] = []
    for word in text.split(",") if text.strip() else []:
        key, equals, value = (part.strip() for part in word.partition("="))
        if equals and key.replace("-", "_") in (known for known, _ in pairs):
            problems.append(f"{where}: {key} is given twice")
        elif equals:
            pairs.append((key.replace("-", "_"), [value]))
        elif key in flags:
            pairs.append((key, ["true"]))
        elif pairs:
            pairs[-1][1].append(key)
        else:
            problems.append(f"{where}: {word!r} has no key; write key=value")
    return pairs
