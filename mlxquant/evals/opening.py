"""Make sides of what a person names: the address of a server, or the folder of a build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..builds.read.build import read_build
from ..endpoint.client import checked_model, parse_server
from ..errors import UsageError
from ..words.secrets import redact
from ..words.text import distinct
from .served import Served, the_model
from .sides import EvalSide

if TYPE_CHECKING:
    from .loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class EvalTarget:
    """One side as it was named. `role` is baseline or candidate; `build` the folder that a server serves."""

    role: str
    where: str
    model: str | None = None
    build: str | None = None
    key: str | None = None

    @property
    def served(self) -> bool:
        """Whether it is the address of a server."""
        return self.where.startswith(("http://", "https://"))


def open_sides(targets: Sequence[EvalTarget], timeout: float) -> list[EvalSide]:
    """Read builds' headers and ask servers for their model's name where it was not given; loads nothing yet.

    Sides of one name are numbered apart. Raises UsageError, BuildError.
    """
    sides = [_served(t, timeout) if t.served else _loaded(t) for t in targets]
    return [replace(side, name=name) for side, name in zip(sides, distinct([s.name for s in sides]), strict=True)]


def _served(target: EvalTarget, timeout: float) -> Served:
    server = parse_server(target.where, timeout, target.key, option=f"--{target.role}")
    model = checked_model(target.model, f"--{target.role}-model") or the_model(server, f"--{target.role}-model")
    build = read_build(target.build) if target.build else None
    facts = {}
    if build is not None:
        from ..builds.facts import describe_build  # here, for servers alone need no mlx

        facts = describe_build(build)
    shown = redact(model)  # before it is cut
    name = build.name if build else shown.rstrip("/").rpartition("/")[2] or shown
    return Served(server, model, name, facts)


def _loaded(target: EvalTarget) -> LoadedModel:
    if target.model or target.build or target.key:
        raise UsageError(
            f"--{target.role} {target.where}: a folder; --{target.role}-model and the like go with servers"
        )
    if "://" in target.where:
        raise UsageError(f"--{target.role} {target.where}: a server's address begins with http:// or https://")
    from .loaded import LoadedModel

    build = read_build(target.where)
    return LoadedModel(build, build.name)
