"""What holds of a build here and now: a check-load record and the list of `validate --since` for a terminal.

Both say how a build fares with the libraries and the machine of today, in paragraphs rather than tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..words.lm_studio import library_of, used_by
from ..words.text import filled
from ..words.units import show_bytes
from .verdict import name

# --- check-load ---


def check_load_text(record: Mapping[str, Any]) -> str:
    """Write a check-load record for a reader: a paragraph for each library."""
    vision = record["vision"]
    used = library_of(vision=vision)
    route = f"LM Studio loads it through {used}"
    if used in [answer["library"] for answer in record["libraries"] if answer.get("unsupported")]:
        route = f"LM Studio would take {used}, which has no such model"
    lines = [f"{record['build']}: {'with' if vision else 'without'} a vision_config, so {route}"]
    for answer in record["libraries"]:
        lines += ["", *_library_lines(answer)]
    return "\n".join(lines)


def _library_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """What one library answered: whether it loads the build, as what, and whether that runs."""
    library, used = answer["library"], used_by(answer["library"])
    if not answer["installed"]:
        yield f"{library}: not installed, so not tried (pip install {library})"
        yield f"  used by    {used}"
        return
    on = f"mlx {answer.get('mlx', '?')}, {answer.get('device', '?')}, Python {answer['python']}"
    verdict = "loads" if answer["loaded"] else "has no such model" if answer.get("unsupported") else "DOES NOT LOAD"
    yield f"{library} {answer.get('version', '?')} on {on}: {verdict}"
    yield f"  used by    {used}"
    if answer["loaded"]:
        yield from _loaded_lines(answer)
    else:
        yield from _indented("error", answer["error"])
    for text in answer.get("warnings", ()):
        yield from _indented("warning", text)


def _loaded_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    formats = [f"{f['modules']:,} modules {_format_text(f)}" for f in answer["formats"]] or ["no module quantized"]
    yield f"  strict     {answer['arrays']:,} arrays, {show_bytes(answer['bytes'])}, all found and none left over"
    yield f"  quantized  {', '.join(formats)}"
    for kind, label in (("text", "runs"), ("image", "sees")):
        if trial := answer.get(kind):
            yield from _indented(label, trial.get("error") or repr(trial["text"]))
    peak = f"{show_bytes(answer['mlx_peak_bytes'])} in mlx, {show_bytes(answer['rss_peak_bytes'])} in the process"
    yield f"  memory     {peak} at most; loaded in {answer['load_s']:.1f} s"


def _indented(label: str, text: str, limit: int = 6) -> Iterator[str]:
    """A label and a text of several lines, of which the first few are shown."""
    first, *rest = text.splitlines() or [""]
    yield f"  {label:<10} {first}"
    yield from (f"  {'':<10} {line}" for line in rest[: limit - 1])
    if len(rest) >= limit:
        yield f"  {'':<10} … and {len(rest) - limit + 1:,} more lines"


def _format_text(stored: Mapping[str, Any]) -> str:
    bits = f"{stored['bits']}-bit" if stored["mode"] == "affine" else stored["mode"]
    return f"at {bits} g{stored['group_size']}"


# --- since ---


def since_text(record: Mapping[str, Any]) -> str:
    """Write what must be measured again for a reader: what changed, then kinds of figures, records, tolerances."""
    changed = [f"{c['what']} {c['then']} → {c['now']}" for c in record["changes"]]
    lines = [filled("changed", f"since {record['since']}: {', '.join(changed) or 'nothing of machine and versions'}")]
    for entry in record["again"]:
        lines.append(filled("again", f"{entry['figures']}: {', '.join(entry['commands'])}"))
        lines.append(filled("", f"because of {', '.join(entry['because'])}"))
    for entry in record["records"]:
        state = f"no longer holds ({', '.join(entry['again'])}): {', '.join(entry['because'])}"
        lines.append(filled("record", f"{entry['file']}: {state if entry['again'] else 'holds'}"))
    for t in record["tolerances"]:
        lines.append(filled("tolerance", f"{t['tolerance']}: {name(t)} rests on {t['figures']}"))
    if not record["again"]:
        lines.append(filled("holds", "nothing has to be measured again"))
    lines.append(
        filled(
            "note",
            "a build's bytes and the errors in its audit depend on none of this; mlxquant verify checks the bytes",
        )
    )
    return "\n".join(lines)
