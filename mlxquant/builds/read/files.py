"""What a build's config.json says of its formats, held against what the shards are.

mlx-lm reads `quantization`: `group_size`, `bits`, `mode` at the top level, and entries ``path: {…}`` or
``path: false``. An entry decides for its module. A module without one is inferred from shapes by mlx-lm 0.32, and
taken for the top level by the version that LM Studio pins; so both must fit. `quantization_config` is the same again,
for the Hub.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...words.formats import MODE_DEFAULTS, Format

_TOP = ("group_size", "bits", "mode")


@dataclass(frozen=True, slots=True)
class Claims:
    """A config's `quantization`: `top` for what no entry names, `entries` (None is `false`), what is malformed."""

    present: bool
    top: Format | None
    entries: Mapping[str, Format | None]
    problems: tuple[str, ...]

    def of(self, path: str) -> Format | None:
        """The format that the config gives a module, if it is quantized."""
        return self.entries.get(path, self.top)


def read_claims(config: Mapping[str, Any]) -> Claims:
    """Read a config's claims; what cannot be read is a sentence in `problems`."""
    problems: list[str] = []
    block, twin = config.get("quantization"), config.get("quantization_config")
    if block is None:
        if isinstance(twin, dict) and "bits" in twin and "quant_method" not in twin:
            problems.append("config.json: has quantization_config, but no quantization, which is what mlx-lm reads")
        return Claims(False, None, {}, tuple(problems))
    if not isinstance(block, dict):
        problems.append(f"config.json: quantization is a table, not {_short(block)}")
        return Claims(True, None, {}, tuple(problems))
    if twin is not None and twin != block:
        problems.append(f"config.json: quantization and quantization_config differ: {_difference(block, twin)}")
    top = _format(block, "quantization", problems) if {"bits", "group_size"} <= block.keys() else None
    if top is None:
        problems.append("config.json: quantization gives no bits and group_size for the build, which mlx-lm asks for")
    entries: dict[str, Format | None] = {}
    for path, value in block.items():
        if value is False:
            entries[path] = None
        elif value is True and top is not None:
            entries[path] = top
        elif isinstance(value, dict) and (fmt := _format(value, f"quantization: {path}", problems)) is not None:
            entries[path] = fmt
    return Claims(True, top, entries, tuple(problems))


def against_shards(
    claims: Claims,
    formats: Mapping[str, Format | None],
    unclear: frozenset[str],
    unplaced: frozenset[str],
) -> Iterator[str]:
    """What the config says that the shards do not bear out, alike cases in one sentence.

    `formats` are what the shards hold, by module path; `unclear` are paths whose format cannot be told, `unplaced`
    those that mlx-lm's class does not have.
    """
    if not claims.present:
        held = [p for p, f in formats.items() if f is not None and p not in unplaced]
        if held:
            yield f"config.json: has no quantization, so mlx-lm cannot load what is packed: {_some(held)}"
        return
    if not any(formats.values()) and not unclear:
        yield f"config.json: says {claims.top}, but nothing in the shards is quantized"
    wrong: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for path, found in formats.items():
        listed = path in claims.entries
        if path in unclear or (path in unplaced and not listed):
            continue
        said = claims.of(path)
        if said != found and (listed or found is not None) and not (said is None and not listed):
            wrong[_name(said), _name(found), listed].append(path)
    for (said_name, found_name, listed), paths in wrong.items():
        if listed:
            yield f"config.json: lists as {said_name} what the shards hold as {found_name}: {_some(paths)}"
        else:
            yield (
                f"config.json: says {said_name} at the top level and lists no other, the shards hold {found_name}:"
                f" {_some(paths)}"
            )
    yield from _entries_for_nothing(claims, formats)


def _entries_for_nothing(claims: Claims, formats: Mapping[str, Format | None]) -> Iterator[str]:
    ancestors = {".".join(parts[:n]) for p in formats for parts in [p.split(".")] for n in range(1, len(parts))}
    absent = [p for p in claims.entries if p not in formats and (p not in ancestors or claims.entries[p])]
    if absent:
        yield f"config.json: quantization has entries for modules that are not there: {_some(absent)}"


def _format(value: Mapping[str, Any], where: str, problems: list[str]) -> Format | None:
    """One claim as mlx reads it: what it leaves out is the mode's default."""
    mode = value.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODE_DEFAULTS:
        problems.append(f"config.json: {where}: mode {_short(mode)} is unknown; mlx has {', '.join(MODE_DEFAULTS)}")
        return None
    group, bits = MODE_DEFAULTS[mode]
    given = (value.get("bits", bits), value.get("group_size", group))
    if not all(type(v) is int for v in given):
        problems.append(f"config.json: {where}: bits and group_size are numbers, not {_short(value)}")
        return None
    fmt = Format(given[0], given[1], mode)
    if problem := fmt.problem():
        problems.append(f"config.json: {where}: {problem}")
    return fmt


def _difference(block: Mapping[str, Any], twin: Any) -> str:
    """The first key in which two blocks differ."""
    if not isinstance(twin, dict):
        return f"the second is {_short(twin)}"
    missing = object()
    for key in (*block, *(k for k in twin if k not in block)):
        one, other = block.get(key, missing), twin.get(key, missing)
        if one != other:
            return f"{key} is {_short(one) if one is not missing else 'absent'}" + (
                f" and {_short(other) if other is not missing else 'absent'}"
            )
    return "in the order of their keys"


def _name(fmt: Format | None) -> str:
    return str(fmt) if fmt else "unquantized"


def _some(paths: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(paths) - limit:,} more" if len(paths) > limit else ""
    return f"{len(paths):,} module{'s' if len(paths) > 1 else ''} ({', '.join(paths[:limit])}{more})"


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
