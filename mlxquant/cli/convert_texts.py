"""What `convert` says on stderr before it begins and when it is done: what it takes, and what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..words.units import show_bytes

if TYPE_CHECKING:
    from ..builds.write.opening import Opening

# What a download is reckoned with where nobody has measured it
_DOWNLOAD = 100e6


def opening_text(opening: Opening) -> str:
    """One line: bytes to read and to write, room at OUT, and how long it takes."""
    missing = max(0, opening.read_bytes - opening.cached_bytes)
    reads = f"reads {show_bytes(opening.read_bytes)}"
    if opening.from_hub:
        reads = f"{reads} from the Hub's cache" if not missing else f"downloads {show_bytes(missing)}"
    write, left = opening.write_bytes, opening.left
    writes = f"writes {show_bytes(write)}"
    if left is not None:
        writes = f"writes the {show_bytes(left)} that are missing of {show_bytes(write)}"
    where = f"{show_bytes(opening.free_bytes)} free in {opening.folder.resolve()}"
    text = f"{reads}, {writes}; {where}"
    share = 1.0 if left is None else left / max(write, 1)
    if opening.from_hub and not missing:
        return text  # how fast that is read, nobody has measured
    if opening.from_hub:
        return f"{text}; {time_text(share * missing / _DOWNLOAD)} at 100 MB/s of download"
    return f"{text}; {'less than a minute' if opening.seconds is None else time_text(opening.seconds)}"


def time_text(seconds: float) -> str:
    """A time to plan by.

    >>> time_text(42), time_text(150), time_text(3 * 3600)
    ('less than a minute', 'about 3 minutes', 'about 3.0 hours')
    """
    if seconds < 60:
        return "less than a minute"
    if seconds < 100 * 60:
        return f"about {-int(-seconds // 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"


def next_lines(outs: Sequence[Path], models: Path, *, placed: bool) -> Iterator[str]:
    """What to type next for the first of the builds: check it, run it, open it in LM Studio.

    `models` is LM Studio's folder; `placed` says that the builds lie there.
    """
    out = shlex.quote(str(outs[0]))
    yield f"Next: mlxquant audit {out}"
    if len(outs) > 1:
        yield f"      mlxquant diff {out} {shlex.quote(str(outs[1]))}"
    yield f'      mlx_lm.generate --model {out} --prompt "Hello"'
    yield f"      mlx_lm.server --model {out} --port 8080"
    if placed:
        yield f"      LM Studio: My Models, {outs[0].name}; or lms load {'/'.join(outs[0].parts[-2:])}"
    else:
        folder = shlex.quote(str(models / "mlxquant"))
        yield f"      LM Studio: mkdir -p {folder} && mv {out} {folder}/"
