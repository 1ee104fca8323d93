"""What each group does to the output at each format, alone: KL to full precision, measured in the streamed pass.

Each probe is a recipe that quantizes one group and keeps everything else. Many of them share one reading of the
weights; each is computed only from the first layer in which it differs on. How many go in one pass depends on the
bytes of their hidden states. What a pass has found is kept in a work folder, so that a killed run goes on.

Not every format is measured at first. Of each group are measured 2, 3, 4 and 6 bits at one group size, and 3 bits at
the others. The rest follows: over bits the logarithm of KL is interpolated, and beyond 6 bits falls by a factor of 4 a
bit, as squared errors do; another group size changes KL at all bits by the ratio that it has at 3. Such figures are
`measured` False, and are measured once they are chosen (see `rounds`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from ..kernels import ColumnWeights
from ..plan.recipe.recipe import Recipe
from ..plan.recipe.rules import Match, Rule
from ..records.head import describe_versions
from ..source.checkpoint import Checkpoint
from ..source.stamps import source_signature
from ..stream.candidates import Candidate
from ..stream.engine import compare
from ..stream.options import CompareOptions, HasTokens
from ..stream.scores import LayerScores, TokenScores
from ..words.formats import RTN, Format
from ..words.progress import Progress, Watch, unwatched
from .folder import AllocateFolder
from .groups import FormatChoice, ModuleGroup
from .solve import Option

MEASURED_BITS = (2, 3, 4, 6)
RATIO_BITS = 3  # at which the other group sizes are measured
USUAL_GROUP = 64
# Hidden states of the probes of one pass, and how many models are held at once
HIDDEN_BYTES = 4 << 30
MOST_PROBES = 96
LEAST = 1e-12  # nats; below is nothing that float32 shows


@dataclass(frozen=True, slots=True)
class Probe:
    """One group in one format, everything else kept."""

    group: int
    format: Format

    def name(self, groups: Sequence[ModuleGroup]) -> str:
        """How it is called in the pass and in the kept file."""
        return f"{groups[self.group].label}: {self.format}"


class KlSums:
    """A sink that keeps the sum of KL and the number of scored tokens of each candidate and document."""

    def __init__(self, candidates: int, documents: int) -> None:
        self.kl = np.zeros((candidates, documents))
        self.tokens_scored = np.zeros((candidates, documents), np.int64)

    def layer(self, candidate: int, layer: int, case: str, document: int, start: int, scores: LayerScores) -> None:
        """Nothing: what counts is the output."""

    def tokens(self, candidate: int, case: str, document: int, start: int, scores: TokenScores) -> None:
        """Add a document's scores."""
        self.kl[candidate, document] += scores.kl.sum()
        self.tokens_scored[candidate, document] += len(scores.kl)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """The sums so far."""
        return {"kl": self.kl, "tokens": self.tokens_scored}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from sums given out earlier."""
        self.kl[:], self.tokens_scored[:] = state["kl"], state["tokens"]

    def merge(self, states: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Become the sum of these states."""
        self.kl[:] = sum(np.asarray(s["kl"], np.float64) for s in states)
        self.tokens_scored[:] = sum(np.asarray(s["tokens"], np.int64) for s in states)


def probes_of(groups: Sequence[ModuleGroup]) -> list[Probe]:
    """The formats that are measured of every group."""
    return [Probe(g, fmt) for g, group in enumerate(groups) for fmt in _measured_formats(group)]


def _measured_formats(group: ModuleGroup) -> list[Format]:
    formats = [c.format for c in group.choices if c.format is not None]
    sizes = sorted({fmt.group_size for fmt in formats})
    bits = sorted({fmt.bits for fmt in formats})
    usual = USUAL_GROUP if USUAL_GROUP in sizes else sizes[-1]
    measured = [b for b in MEASURED_BITS if b in bits] or bits[:1]
    ratio = RATIO_BITS if RATIO_BITS in measured else measured[0]
    return [Format(b, usual) for b in measured] + [Format(ratio, size) for size in sizes if size != usual]


def recipe_of(group: ModuleGroup, fmt: Format, method: str = RTN) -> Recipe:
    """A recipe that quantizes one group's modules and keeps all else."""
    rule = Rule(
        Match(path=group.paths), "a probe of one group", bits=fmt.bits, group_size=fmt.group_size, mode=fmt.mode,
        method=method, origin="probe",
    )  # fmt: skip
    return Recipe("probe", "one group alone", "", None, (rule,), unaligned="keep")


def measure(
    source: Checkpoint,
    groups: Sequence[ModuleGroup],
    documents: Sequence[HasTokens],
    *,
    width: int,
    probes: Sequence[Probe] | None = None,
    method: str = RTN,
    columns: ColumnWeights | None = None,
    options: CompareOptions | None = None,
    folder: AllocateFolder | None = None,
    watch: Watch = unwatched,
) -> dict[str, float]:
    """Measure probes, by default those of `probes_of`: KL in nats a token, by the probe's name.

    `width` is that of the hidden state, `columns` what a method weighs errors by; `folder` keeps what passes have
    finished. `watch` counts forwards through a layer, the reference's and every probe's from the first layer on in
    which it differs, over all passes that are left.
    """
    alone = outputs_only(options or CompareOptions())
    probes = probes_of(groups) if probes is None else probes
    signature = _signature(source, documents, method, alone, columns)
    kl = {} if folder is None else folder.damage(signature)
    todo = [probe for probe in probes if probe.name(groups) not in kl]
    passes = passes_of(todo, documents, width)
    for number, part in enumerate(passes):
        sums = KlSums(len(part), len(documents))
        candidates = [Candidate(p.name(groups), recipe_of(groups[p.group], p.format, method)) for p in part]
        counting = _counting(watch, groups, passes, number)
        work = None if folder is None else folder.pass_of(f"{signature} {[c.name for c in candidates]}")
        how = replace(alone, work=work)
        compare(source, candidates, documents, sums, how, counting, calibration=lambda _: columns)
        scored = sums.tokens_scored.sum(axis=1)
        kl |= {p.name(groups): float(each / n) for p, each, n in zip(part, sums.kl.sum(axis=1), scored, strict=True)}
        if folder is not None:
            folder.keep(source.name, signature, kl)
    return {name: kl[name] for name in (probe.name(groups) for probe in probes)}


def passes_of(probes: Sequence[Probe], documents: Sequence[HasTokens], width: int) -> list[list[Probe]]:
    """Split probes into passes whose hidden states find room; neighbours differ from about the same layer on."""
    tokens = sum(len(d.tokens) for d in documents)
    at_once = max(1, min(MOST_PROBES, HIDDEN_BYTES // (2 * 4 * max(1, tokens * width))))
    # whole ones first: what a killed run has left is then split as it was before
    return [list(probes[start : start + at_once]) for start in range(0, len(probes), at_once)]


def _counting(watch: Watch, groups: Sequence[ModuleGroup], passes: Sequence[Sequence[Probe]], number: int) -> Watch:
    """A watch for pass `number` that counts forwards through a layer in place of the pass's steps."""

    def forwards(probes: Sequence[Probe], steps: int) -> list[int]:
        """So many in each step: the embedding, the layers, the head."""
        return [1 + sum(_first_step(groups[p.group], steps) <= step for p in probes) for step in range(steps)]

    def counted(progress: Progress) -> None:
        each = [forwards(probes, progress.total) for probes in passes]
        before, own = sum(map(sum, each[:number])), each[number]
        done = before + sum(own[: progress.done])
        part = progress.part * own[progress.done] if progress.done < len(own) else 0.0
        subject = f"pass {number + 1} of {len(passes)}"
        total = sum(map(sum, each))
        watch(replace(progress, done=done + int(part), total=total, part=part - int(part), subject=subject))

    return counted


def _first_step(group: ModuleGroup, steps: int) -> int:
    """The first step of a pass in which a group's modules matter; what lies outside the layers is in the head."""
    if group.layers:
        return group.layers[0] + 1
    return 0 if group.role == "embedding" else steps - 1


def _signature(
    source: Checkpoint, documents: Sequence[HasTokens], method: str, options: CompareOptions,
    columns: ColumnWeights | None,
) -> str:  # fmt: skip
    """What the figures depend on beside the group and its format, which their names say, as a hash."""
    checksum = hashlib.sha256()
    for document in documents:
        checksum.update(np.ascontiguousarray(document.tokens, np.int32).tobytes() + b"|")
    weights = None if columns is None else dict(columns.signature)
    facts = [source_signature(source), method, weights, options.that_change_scores(), describe_versions()]
    checksum.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return checksum.hexdigest()


def outputs_only(options: CompareOptions) -> CompareOptions:
    """The options of a pass that looks at nothing but the output."""
    return replace(options, own=False, noise_floor=False, teacher_forced_routing=False)


def options_of(groups: Sequence[ModuleGroup], kl: Mapping[str, float]) -> list[list[Option]]:
    """The damage of every choice of every group: as measured, or inferred from what was."""
    return [_options(g, groups, kl) for g in range(len(groups))]


def _options(number: int, groups: Sequence[ModuleGroup], kl: Mapping[str, float]) -> list[Option]:
    group = groups[number]
    formats = _measured_formats(group)
    names = {c.format: Probe(number, c.format).name(groups) for c in group.choices if c.format is not None}
    known = {fmt: max(kl[name], LEAST) for fmt, name in names.items() if fmt in formats or name in kl}
    usual = formats[0].group_size
    curve = {fmt.bits: value for fmt, value in known.items() if fmt.group_size == usual}
    others = [fmt for fmt in formats if fmt.group_size != usual]
    ratio = {usual: 1.0} | {fmt.group_size: known[fmt] / curve[fmt.bits] for fmt in others}
    return [_option(choice, known, curve, ratio) for choice in group.choices]


def _option(
    choice: FormatChoice, known: Mapping[Format, float], curve: Mapping[int, float], ratio: Mapping[int, float]
) -> Option:
    fmt = choice.format
    if fmt is None:
        return Option(choice, 0.0, measured=True)
    if fmt in known:
        return Option(choice, known[fmt], measured=True)
    return Option(choice, _at(curve, fmt.bits) * ratio[fmt.group_size], measured=False)


def _at(curve: Mapping[int, float], bits: int) -> float:
    """KL at a number of bits, from those that were measured.

    >>> round(_at({4: 1e-3, 6: 1e-5}, 5), 6), _at({4: 1e-3}, 5)
    (0.0001, 0.00025)
    """
    if bits in curve:
        return curve[bits]
    below, above = [b for b in curve if b < bits], [b for b in curve if b > bits]
    if not below:
        return curve[min(above)] * 4.0 ** (min(above) - bits)
    if not above:
        return curve[max(below)] * 4.0 ** (max(below) - bits)
    a, b = max(below), min(above)
    share = (bits - a) / (b - a)
    return exp((1 - share) * log(curve[a]) + share * log(curve[b]))
