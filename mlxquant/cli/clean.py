"""`mlxquant clean`: the unfinished work in a folder, and throwing away what is named of it."""

from __future__ import annotations

from pathlib import Path

import click

from ..words.text import counted, filled
from ..words.units import show_bytes
from .printing import echo


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("names", metavar="[NAME]...", nargs=-1)
def command(folder: Path, names: tuple[str, ...]) -> None:
    """List the unfinished work in DIR, and throw away what is named of it.

    Unfinished are OUT.partial of convert, the work folders of compare, calibrate, allocate and sweep, and FILE.partial
    of eval; OUT.work of build is listed too, which holds a build's records. Each is known by mlxquant's own marker in
    it, never by its name; nothing else is ever deleted. DIR is looked through three folders deep, and no link is
    followed. Work that a running mlxquant holds is refused.

    \b
    mlxquant clean .
    mlxquant clean . Qwen3.5-122B-8bit.partial
    mlxquant clean ~/.lmstudio/models
    """
    from ..pipeline.unfinished import Unfinished, discard_unfinished, find_unfinished

    def show(work: Unfinished) -> None:
        echo(work.name)
        echo(filled("  what", f"mlxquant {work.command}: {work.what}"))
        echo(filled("  so far", work.progress))
        echo(filled("  takes", f"{show_bytes(work.nbytes)}, last written to {_age(work.age_s)} ago"))
        if work.held:
            echo(filled("  held", "at work right now"))

    if names:
        for work in discard_unfinished(folder, list(names)):
            echo(f"{work.name}: removed, {show_bytes(work.nbytes)}")
        return
    works = find_unfinished(folder)
    for work in works:
        show(work)
    if works:
        echo(f"Next: mlxquant clean {folder} NAME removes one; its own command goes on with it", err=True)
    else:
        echo(f"{folder}: no unfinished work of mlxquant")


def _age(seconds: float) -> str:
    """How long ago, roughly.

    >>> _age(30), _age(7200), _age(3 * 86400)
    ('30 seconds', '2 hours', '3 days')
    """
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(max(0, int(seconds)), "second")
