"""What a build is asked for, and all that it depends on, as build.json keeps it.

Alone in its module because the forecast, the steps and the command line need it, and none of them the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ..allocate.run import AllocateOptions
from ..builds.write.convert import ConvertOptions
from ..builds.write.hashing import sha256
from ..builds.write.opening import Opening
from ..calibrate.record import fingerprint
from ..source.checkpoint import Checkpoint
from ..words.progress import Watch, unwatched
from .documents import Purposes

Bar = Callable[[], AbstractContextManager[Watch]]


@dataclass(frozen=True)
class BuildSettings:
    """How a build is made: `options` have its one budget; `tolerances` is what a file of the user's holds, or None."""

    options: AllocateOptions
    max_tokens: int | None = None
    dtype: str | None = None
    tolerances: bytes | None = None
    convert: ConvertOptions = field(default_factory=ConvertOptions)

    def as_dict(self) -> dict[str, Any]:
        """What the build depends on beside source and documents."""
        options = self.options
        return {
            "budget": {"asked": options.budgets[0].words, "bytes": options.budgets[0].nbytes},
            "method": options.method,
            "bits": list(options.bits),
            "group_sizes": list(options.group_sizes),
            "groups": options.groups,
            "routers": options.routers,
            "active_bytes": options.active,
            "max_tokens": self.max_tokens,
            "dtype": self.dtype,
            "tolerances_sha256": None if self.tolerances is None else sha256(self.tolerances),
        }


@dataclass(frozen=True)
class Showing:
    """Who hears of the steps: `tell` and `warn` take a line, `passing` and `writing` give a bar each."""

    tell: Callable[[str], None] = lambda _: None
    warn: Callable[[str], None] = lambda _: None
    passing: Bar = lambda: nullcontext(unwatched)
    writing: Bar = lambda: nullcontext(unwatched)
    opening: Callable[[Opening], None] = lambda _: None


def request_of(
    source: Checkpoint, purposes: Purposes, texts: Mapping[str, bytes], settings: BuildSettings
) -> dict[str, Any]:
    """All that a build depends on, by content; `texts` are the files of its documents, by name."""
    own = fingerprint(source)
    return {
        "source": {"name": source.name, **own},
        "data": {option: dict(entry) for option, entry in purposes.files.items()},
        "documents": {name: sha256(text) for name, text in texts.items()},
        "options": settings.as_dict(),
    }
