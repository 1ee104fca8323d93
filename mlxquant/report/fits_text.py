"""Which builds fit a machine, as text that fits a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..words.text import filled
from ..words.units import show_bytes
from .plan import source_text

if TYPE_CHECKING:
    from ..plan.fits import Fit, Fits


def fits_text(fits: Fits) -> str:
    """Write what fits for a reader: the memory and whose rule divides it, the context, a table, the best."""
    return "\n\n".join((_head(fits), _table(fits), _verdict(fits)))


def _head(fits: Fits) -> str:
    memory, (k, n) = fits.memory, fits.memory.share
    room = (
        f"{show_bytes(memory.total)}: {show_bytes(memory.usable)} for weights and cache, since macOS lets the GPU wire"
        f" {k}/{n} of the memory (2/3 below 36 GiB, 3/4 from there on; macOS 26 more), and"
        f" {show_bytes(memory.headroom)} headroom for the system. `sudo sysctl iogpu.wired_limit_mb=N` moves the limit."
    )
    how = "as mlx-lm's model makes it" if fits.cost.method == "model" else fits.cost.note or ""
    context = f"{fits.tokens:,} tokens of one sequence: {show_bytes(fits.context_bytes)} of KV and state cache, {how}"
    rest = "the working memory of a pass, up to a few GB while a long prompt is read"
    lines = [("source", source_text(fits.source)), ("memory", room), ("context", context), ("not counted", rest)]
    if fits.overrides:
        lines.insert(1, ("overrides", " ".join(fits.overrides)))
    return "\n".join(filled(label, text) for label, text in lines)


def _table(fits: Fits) -> str:
    from tabulate import tabulate

    rows = [_row(fit) for fit in fits.recipes]
    headers = ("recipe", "bpw", "weights", "with cache", "spare", "fits")
    align = ("left", "right", "right", "right", "right", "left")
    return str(tabulate(rows, headers=headers, tablefmt="simple", colalign=align, disable_numparse=True))


def _row(fit: Fit) -> tuple[str, ...]:
    if fit.bytes is None or fit.needed is None or fit.spare is None:
        return fit.recipe, "-", "-", "-", "-", "cannot be had"
    sizes = (show_bytes(fit.bytes), show_bytes(fit.needed), _signed(fit.spare))
    return fit.recipe, f"{fit.bpw:.3f}", *sizes, "yes" if fit.fits else "no"


def _signed(n: int) -> str:
    return show_bytes(n) if n >= 0 else f"-{show_bytes(-n)}"


def _verdict(fits: Fits) -> str:
    lines = [filled("note", f"{', '.join(names)}: {problem}") for problem, names in _problems(fits).items()]
    possible = [fit for fit in fits.recipes if fit.needed is not None]
    if best := fits.best:
        text = f"{best.recipe}, the least quantized of these that fits" if len(fits.recipes) > 1 else best.recipe
        if pitfalls := [f.recipe for f in fits.recipes if f.fits and (f.bpw or 0) > (best.bpw or 0)]:
            text += f" ({', '.join(pitfalls)} stands here for comparison only)"
        lines.append(filled("best", text))
    elif possible:
        least = min(possible, key=lambda fit: fit.needed or 0)
        lines.append(
            filled("best", f"nothing fits: the smallest, {least.recipe}, is {_signed(-(least.spare or 0))} too large")
        )
    else:
        lines.append(filled("best", "nothing fits: no recipe suits this model"))
    return "\n".join(lines)


def _problems(fits: Fits) -> dict[str, list[str]]:
    """What keeps recipes from this model -> their names. The modules at fault stand in the record."""
    problems: dict[str, list[str]] = {}
    for fit in fits.recipes:
        if fit.problem:
            problems.setdefault(fit.problem.rpartition(": ")[2], []).append(fit.recipe)
    return problems
