"""Records of plan and `plan --fits` as text that fits a terminal of 80 columns.

A plan's text says what each part becomes, what it weighs, what is kept and why; that of `--fits` which builds fit a
machine. Both take the record alone: nothing is decided or counted here that the record does not hold.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records.modules import Module, format_of, is_unaligned
from ..words.modules import ROLES
from ..words.text import counted, filled, table
from ..words.units import show_bytes, show_count
from .common import (
    methods_text,
    provider_text,
    recipe_text,
    short_layer,
    smaller_groups_text,
    source_text,
    unaligned_text,
)
from .predict import calibration_text, speed_text

_INDENT = 12

Record = Mapping[str, Any]


# --- plan ---


def plan_text(record: Record) -> str:
    """Write a plan's record for a reader: head, table, totals, what is protected, encoded, dropped, noted; speed."""
    speed = speed_text(record["speed"], record["recipe"]["name"]) if "speed" in record else ""
    parts = (
        _head(record), part_table(record["modules"]), _totals(record), _protected(record), _encoding(record),
        _remarks(record), speed,
    )  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def part_table(modules: Sequence[Module]) -> str:
    """Write the table by role, layer type and format, in the order of the roles; 79 columns at most."""
    groups: dict[tuple[int, str, str], list[Module]] = defaultdict(list)
    for m in modules:
        groups[ROLES.index(m["role"]), short_layer(m["layer_type"]), format_of(m)].append(m)
    whole = sum(m["bytes"] for m in modules)
    rows = []
    for (role, layer, stored), members in sorted(groups.items(), key=lambda item: item[0][:2]):
        size, parameters = (sum(m[key] for m in members) for key in ("bytes", "parameters"))
        cells = (f"{len(members):,}", show_count(parameters), stored, show_bytes(size, 1), _percent(size, whole))
        rows.append((ROLES[role], layer, *cells))
    return table(("role", "layer", "modules", "params", "format", "bytes", "share"), rows, "llrrlrr")


def _head(record: Record) -> str:
    recipe = record["recipe"]
    # a summary knows nothing of what changes the recipe; records before 2026-11-28 have none
    summary = f": {recipe['name']} is {recipe['summary']}" if recipe["overrides"] else f": {recipe.get('summary')}"
    lines = (
        filled("source", source_text(record["source"])),
        filled("recipe", recipe_text(recipe) + (summary if recipe.get("summary") else "")),
        filled("sha256", recipe["sha256"]),
    )
    return "\n".join(lines)


def _totals(record: Record) -> str:
    t = record["totals"]
    size, source, active = t["bytes"], t["source_bytes"], t["active_bytes_per_token"]
    experts = record.get("experts")
    of_experts = f" ({experts['per_token']} of {experts['count']} experts)" if experts else ""
    lines: list[tuple[str, int, str]] = [
        ("parameters", t["parameters"], ""),
        ("bytes", size, f"{show_bytes(size)}, {t['bpw']:.4f} bits per weight"),
        ("source", source, show_bytes(source)),
        ("active", t["active_parameters"], f"parameters that one token uses{of_experts}"),
        ("", active, f"bytes read to decode it, {show_bytes(active)}"),
    ]
    for name, entry in record.get("beside", {}).items():
        lines.append(("beside", entry["bytes"], f"{name}, {entry['tensors']:,} tensors that the model does not load"))
    wide = max(len(f"{amount:,}") for _, amount, _ in lines)
    return "\n".join(f"{label:<{_INDENT}}{amount:>{wide},}  {text}".rstrip() for label, amount, text in lines)


def _protected(record: Record) -> str:
    unaligned = unaligned_text(m["role"] for m in record["modules"] if is_unaligned(m))
    smaller = smaller_groups_text(record["modules"])
    remarks = (("unaligned", unaligned), ("group size", smaller), ("method", methods_text(record["modules"])))
    lines = [filled(label, text) for label, text in remarks if text]
    return "\n".join((_protected_modules(record), *lines))


def _protected_modules(record: Record) -> str:
    protected = [m for m in record["modules"] if m["protected"]]
    if not protected:
        raw = record["protected"].get("raw_routers", 0)
        why = f"the {raw:,} routers stay at source precision anyway" if raw else "no rule keeps what mlx can quantize"
        return filled("protected", f"0 modules: {why}")
    groups: dict[tuple[str, str], list[Module]] = defaultdict(list)
    for m in protected:
        groups[m["rule"] or "", m["reason"]].append(m)
    lines = [filled("protected", f"{len(protected):,} modules that mlx can quantize and a rule keeps:")]
    for (rule, reason), members in groups.items():
        counts = ", ".join(f"{n:,} {role}" for role, n in Counter(m["role"] for m in members).items())
        lines.append(filled("", f"{counts}: {reason} [{rule}]"))
    return "\n".join(lines)


def _encoding(record: Record) -> str:
    """What a pass takes that encodes layer by layer; empty where none does."""
    if (room := record.get("encoding")) is None:
        return ""
    learning = f", then {show_bytes(room['learning_bytes'])} to learn it" if "learning_bytes" in room else ""
    return filled(
        "pass",
        f"{room['method']} encodes layer by layer on documents: at most {show_bytes(room['memory_bytes'])} of memory"
        f" with {counted(room['workers'], 'worker')} (--jobs) and {room['tokens']:,} tokens, of which"
        f" {show_bytes(room['layer_bytes'])} for a layer and {show_bytes(room['inputs_bytes'])} for what enters it"
        f"{learning}",
    )


def _remarks(record: Record) -> str:
    return "\n".join(
        [
            *_dropped(record["dropped"]["by_kind"], provider_text(record["source"])),
            *(filled("note", note) for note in record["notes"]),
            *(filled("warning", warning) for warning in record["warnings"]),
        ]
    )


def _dropped(kinds: Record, library: str) -> Iterator[str]:
    if kinds:
        counts = [f"{k['tensors']:,} {kind} tensors ({show_bytes(k['bytes'])})" for kind, k in kinds.items()]
        model = f"{library}'s model" if library else "mlx-lm's text model"
        yield filled("dropped", f"{', '.join(counts)}, which {model} has no place for")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


# --- plan --fits ---


def fits_text(record: Record) -> str:
    """Write which builds fit, for a reader: the memory and whose rule divides it, the context, a table, the best."""
    return "\n\n".join((_fits_head(record), _fits_table(record["recipes"]), _verdict(record)))


def _fits_head(record: Record) -> str:
    memory, context = record["memory"], record["context"]
    room = (
        f"{show_bytes(memory['bytes'])}: {show_bytes(memory['usable_bytes'])} for weights and cache, since macOS lets"
        f" the GPU wire {memory['usable_share']} of the memory (2/3 below 36 GiB, 3/4 from there on; macOS 26 more),"
        f" and {show_bytes(memory['headroom_bytes'])} headroom for the system. `sudo sysctl iogpu.wired_limit_mb=N`"
        " moves the limit."
    )
    how = "as mlx-lm's model makes it" if context["method"] == "model" else context["note"] or ""
    cache = f"{context['tokens']:,} tokens of one sequence: {show_bytes(context['bytes'])} of KV and state cache, {how}"
    rest = "the working memory of a pass, up to a few GB while a long prompt is read"
    lines = [("source", source_text(record["source"])), ("memory", room), ("context", cache), ("not counted", rest)]
    if chip := record.get("chip"):
        lines.append(("speed", _chip_text(chip, context["tokens"])))
    if record["overrides"]:
        lines.insert(1, ("overrides", " ".join(record["overrides"])))
    return "\n".join(filled(label, text) for label, text in lines)


def _chip_text(chip: Record, tokens: int) -> str:
    """Which chip the speeds are of, and how sure they are."""
    calibration = chip["calibration"]
    where = f"decode in tok/s on {chip['chip']} after {tokens:,} tokens, one sequence"
    if calibration is None:
        return f"{where}: at most, by its memory bandwidth; no published points to say what it reaches"
    return f"{where}: {calibration_text(calibration)}"


def _fits_table(recipes: Sequence[Record]) -> str:
    heads: tuple[str, ...] = ("recipe", "bpw", "weights", "with cache", "spare", "fits")
    rows: list[tuple[str, ...]] = [_row(recipe) for recipe in recipes]
    if any("speed" in recipe for recipe in recipes):
        heads = (*heads, "tok/s")
        rows = [(*row, _speed(recipe.get("speed"))) for row, recipe in zip(rows, recipes, strict=True)]
    return table(heads, rows, "lrrrrlr"[: len(heads)])


def _speed(speed: Record | None) -> str:
    if speed is None:
        return "-"
    return f"{speed['expected']['tok_s']:.1f}" if speed["expected"] else f"≤ {speed['ceiling_tok_s']:.1f}"


def _row(recipe: Record) -> tuple[str, ...]:
    name, size, needed, spare = (recipe[key] for key in ("recipe", "bytes", "needed_bytes", "spare_bytes"))
    if size is None or needed is None or spare is None:
        return name, "-", "-", "-", "-", "refused"
    sizes = (show_bytes(size, 1), show_bytes(needed, 1), _signed(spare, 1))
    return name, f"{recipe['bpw']:.3f}", *sizes, "yes" if recipe["fits"] else "no"


def _signed(n: int, digits: int = 2) -> str:
    return show_bytes(n, digits) if n >= 0 else f"-{show_bytes(-n, digits)}"


def _verdict(record: Record) -> str:
    recipes = record["recipes"]
    lines = [filled("note", f"{', '.join(names)}: {reason}") for reason, names in _reasons(recipes).items()]
    possible = [r for r in recipes if r["needed_bytes"] is not None]
    if best := next((r for r in recipes if r["recipe"] == record["best"]), None):
        # records of version 1 name the least quantized, and give no reason
        lines.append(
            filled("best", f"{best['recipe']}: {record.get('why') or 'the least quantized of these that fits'}")
        )
        lines += [filled("measured by" if i == 0 else "", s) for i, s in enumerate(record.get("sources", ()))]
        lines += [filled("not known" if i == 0 else "", s) for i, s in enumerate(record.get("not_known", ()))]
        lines += _speed_lines(best)
    elif fitting := [r["recipe"] for r in possible if r["fits"]]:
        lines.append(
            filled("best", f"not named: {', '.join(fitting)} fits, but is shipped as a pitfall to compare with")
        )
    elif possible:
        least = min(possible, key=lambda r: r["needed_bytes"] or 0)
        missing = _signed(-(least["spare_bytes"] or 0))
        lines.append(filled("best", f"nothing fits: the smallest, {least['recipe']}, is {missing} too large"))
    else:
        lines.append(filled("best", "nothing fits: no recipe suits this model"))
    return "\n".join(lines)


def _speed_lines(best: Record) -> Iterator[str]:
    """The recommended build's speed with its interval, and in what it lies outside the points."""
    if expected := (best.get("speed") or {}).get("expected"):
        ends = f"95 % interval {expected['low']:.1f} to {expected['high']:.1f}"
        yield filled("speed", f"{expected['tok_s']:.1f} tok/s, {ends}")
        for i, words in enumerate(expected["extrapolates"]):
            yield filled("" if i else "outside", words)


def _reasons(recipes: Sequence[Record]) -> dict[str, list[str]]:
    """What keeps recipes from this model -> their names. The modules at fault stand in the record's `problem`."""
    reasons: dict[str, list[str]] = {}
    for recipe in recipes:
        if recipe["problem"]:
            reasons.setdefault(recipe["reason"], []).append(recipe["recipe"])
    return reasons
