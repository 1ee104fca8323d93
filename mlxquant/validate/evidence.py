"""The words of evidence: who was measured against what, on which machine, when, and every figure with its interval.

Whatever command wrote a record, it becomes the same here: sides with figures at places (`reading` fills them). Figures
that were counted (a build's bytes) have an interval of no width and need no sample. Ratios of speeds are kept as
logarithms, where their intervals are symmetric and can be stated again at another confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..records.candidates import hashes_of
from ..records.schemas.sense import COUNTED, SIZES
from ..stats import Interval

NOISE_FLOOR = "noise floor"
# kinds of records that are judged -> what their figures are clustered by
UNITS = {
    "compare": "documents", "eval": "tasks", "tau2": "tasks", "results": "clusters", "rollout": "conversations",
    "bench": "rounds", "plan": "builds", "audit": "builds",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured quantity at a place. With `log`, the interval is that of its logarithm.

    `depth` is the first and the last call, turn or action of a loop that it is over, None where it is over all.
    """

    metric: str
    where: tuple[tuple[str, str], ...]
    interval: Interval
    log: bool = False
    depth: tuple[int, int | None] | None = None


@dataclass(frozen=True, slots=True)
class MeasuredSide:
    """A build, recipe or server that was measured: what identifies it, where it is, and its figures.

    `aliases` are other names for it, `source` is the checkpoint that it was made from, where the record says so.
    """

    name: str
    identity: Mapping[str, str]
    pointer: Mapping[str, Any]
    figures: tuple[Figure, ...]
    kind: str = "candidate"
    aliases: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All that it is called, its own name first."""
        return (self.name, *self.aliases)

    @property
    def recipe(self) -> str | None:
        """Its recipe's bare name, which variations of it share."""
        return table_of(self.pointer.get("recipe")).get("name")

    def find(self, metric: str, where: Mapping[str, str]) -> list[Figure]:
        """The figures of a metric where a tolerance wants it: keys that it names must fit, others must be absent.

        A bench test may be left open: its label is a measurement's name more than a place.
        """
        return [
            f
            for f in self.figures
            if f.metric == metric
            and all(_fits(where.get(k), v) or (k == "test" and k not in where) for k, v in f.where)
            and where.keys() <= {k for k, _ in f.where}
        ]


@dataclass(frozen=True, slots=True)
class Evidence:
    """One record. `baseline` is None where it has none; `unit` is what its figures are clustered by.

    `sha256` is of the bytes that `record` was read from.
    """

    file: str
    schema: str
    sha256: str
    date: str | None
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    source: Mapping[str, Any]
    baseline: MeasuredSide | None
    candidates: tuple[MeasuredSide, ...]
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        """What more of would narrow an interval."""
        return UNITS.get(self.kind, "samples")

    @property
    def kind(self) -> str:
        """The command's name in the schema: ``"eval"`` of mlxquant.eval/1."""
        return self.schema.removeprefix("mlxquant.").partition("/")[0]


def counted(table: Mapping[str, Any]) -> Iterator[Figure]:
    """Sizes that a record states; they are known, not sampled."""
    traffic = table_of(table.get("traffic"))
    for metric in SIZES:
        value = table.get(metric, traffic.get(metric))
        if type(value) in (int, float):
            yield Figure(metric, (), exactly(float(value)))


def exactly(value: float) -> Interval:
    """A quantity that was counted."""
    return Interval(value, value, value, 0.0, 1, 1, method=COUNTED)


def pointer_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of where a side is to be found."""
    pointer = {
        k: entry[k]
        for k in (
            "manifest_sha256",
            "config_sha256",
            "endpoint",
            "model",
            "build",
            "revision",
            "file",
            "same_as_baseline",
        )
        if isinstance(entry.get(k), str)
    }
    recipe = table_of(entry.get("recipe"))
    if recipe.get("name"):
        pointer["recipe"] = {k: recipe.get(k) for k in ("name", "sha256")}
    about = table_of(entry.get("about"))
    return pointer | {k: about[k] for k in ("agent_llm",) if k in about}


def identity_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """What tells a side from others, as far as a record knows it."""
    model_type = entry.get("model_type")
    return {**hashes_of(entry), **({"model_type": model_type} if isinstance(model_type, str) else {})}


def _fits(wanted: str | None, value: str) -> bool:
    return wanted is not None and wanted in ("*", value)


def table_of(value: Any) -> Mapping[str, Any]:
    """The value if it is a table, else an empty one."""
    return value if isinstance(value, Mapping) else {}
