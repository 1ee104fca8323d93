"""A comparison from end to end, and its record: what was judged, on what, how, and what came out.

The record keeps every figure with its interval, and all that it could be misread without: machine, versions, date, the
source's revision, each recipe's hash and text, the data's hash, the options, the margin that was set before, what the
pass read and took. Figures of the candidate as served have no `case`; those over everything have no `slice`, `depth`,
`turn`, `layer`, `against`. `validate`, `sweep` and `report` read it (see `figures`), without mlx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibrate.candidates import EncodedCandidates
from ..calibrate.record import Calibration
from ..errors import DataError, UsageError
from ..records.head import describe_machine, describe_versions, head, utc_date
from ..records.metrics import CAVEAT
from ..source.checkpoint import Checkpoint
from ..stream.candidates import Candidate
from ..stream.engine import compare
from ..stream.options import NOISE_FLOOR, CompareOptions, Pass
from ..stream.ranks import Ranks
from ..stream.state import check_work
from ..words.progress import Watch, unwatched
from .overlap import check_overlap, overlap_warning
from .statistics import (
    DEFAULT_MARGIN,
    against_each_other,
    against_floor,
    difference_measurements,
    layer_measurements,
    margin_measurements,
    reference_measurements,
    routing_damage,
    token_measurements,
)
from .tally import ACCUMULATED, LAYER_FIELDS, Tally, shared_tokens
from .texts.documents import BUILTIN, Documents, read_documents
from .texts.tokens import open_tokenizer

SCHEMA = "mlxquant.compare/1"
DEFAULTS = CompareOptions()
_MUCH_SHARED = 0.05
_ROUTED = LAYER_FIELDS.index("routed")


@dataclass(frozen=True, slots=True)
class Question:
    """What a comparison is over, and what will count as a difference; set before anything is measured.

    `data` is a JSONL file or "builtin"; `margin` is what a difference in KL must exceed to matter, in nats a token.
    `second_half` scores tokens by llama.cpp's rule; `max_tokens` cuts longer documents.
    """

    data: Path | str = BUILTIN
    margin: float = DEFAULT_MARGIN
    confidence: float = 0.95
    second_half: bool = False
    max_tokens: int | None = None


def run_comparison(
    source: Checkpoint,
    candidates: Sequence[Candidate],
    question: Question,
    options: CompareOptions = DEFAULTS,
    progress: Watch = unwatched,
    ranks: Ranks | None = None,
    calibration: Calibration | None = None,
    warn: Callable[[str], None] = lambda _: None,
    encoding: EncodedCandidates | None = None,
) -> tuple[dict[str, Any], bool]:
    """Judge candidates against the source in one pass. Gives the record, and whether this rank is the one to show it.

    `calibration` is for recipes whose method needs one, `encoding` for those that need documents. `warn` gets, before
    the pass, what makes figures too good.
    Raises UsageError, DataError for the data, and what `compare` raises; OtherRankError where another rank says why.
    """
    ranks = ranks or Ranks.join()
    with ranks.as_one():
        _check(candidates, question)
        inputs = [("the source", source.folder), *(("--build", c.build) for c in candidates)]
        data = None if question.data == BUILTIN else Path(question.data)
        check_work(ranks.folder(options.work), [*inputs, ("--data", data)])
        documents = read_documents(question.data, open_tokenizer(source), max_tokens=question.max_tokens)
        overlaps = check_overlap(candidates, documents, calibration.documents() if calibration else None, encoding)
        for name, overlap in overlaps.items():
            if (remark := overlap_warning(overlap, len(documents.documents))) and ranks.rank == 0:
                warn(f"{name}: {remark}")
        tally = Tally(documents.documents, second_half=question.second_half)
        columns = calibration.columns if calibration else None
        done = compare(
            source, candidates, documents.documents, tally, options, progress, ranks, calibration=columns,
            encoding=encoding,
        )  # fmt: skip
    if done.rank != 0:
        return {}, False
    return make_record(source, candidates, documents, tally, done, question, options, overlaps), True


def make_record(
    source: Checkpoint,
    candidates: Sequence[Candidate],
    documents: Documents,
    tally: Tally,
    done: Pass,
    question: Question,
    options: CompareOptions,
    overlaps: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Make the record of a finished pass: `done` is its report, `tally` has its scores, `overlaps` is as counted."""
    names = [entry["name"] for entry in done.candidates]
    by_name = {c.name: c for c in candidates}
    name = question.data if question.data == BUILTIN else Path(question.data).name
    baseline = {
        "name": source.name,
        "compute": done.compute,
        "measurements": [
            *reference_measurements(tally, question.confidence),
            *margin_measurements(tally, question.confidence),
        ],
    }
    return {
        **head(SCHEMA),
        "date": utc_date(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "confidence": question.confidence,
        "margin_nats": question.margin,
        "source": done.source,
        "data": _data(str(name), documents, tally),
        "options": _options(question, options),
        "pass": {**done.figures(), "sha256_checked": source.sha256_checked},
        "baseline": baseline,
        "candidates": [
            _candidate(tally, i, _warned(entry, overlaps, documents), by_name.get(entry["name"]), names, question)
            for i, entry in enumerate(done.candidates)
        ],
        "notes": [*documents.notes, *_alike(documents, tally), *done.notes, *_unseen_margins(tally)],
        "caveat": CAVEAT,
    }


def _check(candidates: Sequence[Candidate], question: Question) -> None:
    if not candidates:
        raise UsageError("nothing to compare: give recipes (-r) or builds (--build)")
    names = [c.name for c in candidates]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{twice[0]}: given twice; candidates are told apart by their names")
    if NOISE_FLOOR in names:
        raise UsageError(f"{NOISE_FLOOR!r} is the noise floor's name; call the candidate something else")
    if not 0 <= question.margin < float("inf"):
        raise UsageError(f"--margin: nats a token, 0 or more, expected; {question.margin} given")
    if not 0.5 <= question.confidence < 1:
        raise UsageError(f"--confidence: a share such as 0.95 expected; {question.confidence} given")


def _data(name: str, documents: Documents, tally: Tally) -> dict[str, Any]:
    """What the figures are over; `slices` counts each slice's documents."""
    scored = int(tally.token_sums(0, ACCUMULATED)[0, :, 0].sum())
    if scored == 0:
        raise DataError(f"{name}: no token was scored; with --second-half, documents of 3 tokens or more are needed")
    slices = {
        group.name: int((tally.grouping.sums(tally.token_sums(0, ACCUMULATED), group)[:, 0] > 0).sum())
        for group in tally.grouping.groups
        if group.kind == "slice"
    }
    return {
        "name": name,
        "sha256": documents.sha256,
        "documents": len(documents.documents),
        "tokens": sum(len(d.tokens) for d in documents.documents),
        "scored_tokens": scored,
        "slices": dict(sorted(slices.items())),
    }


def _options(question: Question, options: CompareOptions) -> dict[str, Any]:
    return {
        "second_half": question.second_half,
        "max_tokens": question.max_tokens,
        **options.that_change_scores(),
    }


def _warned(entry: dict[str, Any], overlaps: Mapping[str, Mapping[str, Any]], documents: Documents) -> dict[str, Any]:
    """The pass's entry of a candidate, with what it was calibrated on and a warning where that judges it too."""
    if (overlap := overlaps.get(entry["name"])) is None:
        return entry
    remark = overlap_warning(overlap, len(documents.documents))
    warnings = [*(entry.get("warnings") or ()), *([remark] if remark else ())]
    return {**entry, "calibration": dict(overlap), **({"warnings": warnings} if warnings else {})}


def _candidate(
    tally: Tally,
    i: int,
    entry: dict[str, Any],
    candidate: Candidate | None,
    names: Sequence[str],
    question: Question,
) -> dict[str, Any]:
    """One candidate: what it is, its verdicts, its figures. `entry` is the pass's, `candidate` None for the floor."""
    facts = {key: value for key, value in entry.items() if key != "routers_kept"}
    record: dict[str, Any] = {"name": entry["name"], "kind": _kind(entry), **facts}
    if candidate is not None and candidate.recipe is not None:
        record["recipe"] = candidate.recipe.as_dict()
    margin, confidence = question.margin, question.confidence
    if NOISE_FLOOR in names and entry["name"] != NOISE_FLOOR:
        floor = names.index(NOISE_FLOOR)
        record["verdict"] = against_floor(tally, i, floor, NOISE_FLOOR, margin, confidence).as_dict()
    record["beside"] = [
        against_each_other(tally, i, other, name, margin, confidence).as_dict()
        for other, name in enumerate(names)
        if other != i and NOISE_FLOOR not in (name, entry["name"])
    ]
    record["measurements"] = [
        *token_measurements(tally, i, confidence),
        *routing_damage(tally, i, confidence),
        *difference_measurements(tally, i, names, confidence),
        *layer_measurements(tally, i, confidence, kept_routers=bool(entry.get("routers_kept"))),
    ]
    return record


def _alike(documents: Documents, tally: Tally) -> list[str]:
    """Say which documents are not independent of each other: copies, and those with a beginning in common."""
    notes, texts = [], documents.documents
    copies = len(texts) - tally.grouping.clusters
    if copies:
        notes.append(f"{copies:,} documents are copies of another; intervals count each text once")
    shared, tokens = shared_tokens(texts), sum(len(d.tokens) for d in texts)
    if shared > _MUCH_SHARED * tokens:
        notes.append(
            f"{shared / tokens:.0%} of the tokens stand in prefixes that documents share (a system prompt, say):"
            " intervals take them as independent and are too narrow there"
        )
    return notes


def _unseen_margins(tally: Tally) -> list[str]:
    """Say which routers show no logits, so that an absent margin is not taken for a safe one."""
    routed = [layer for layer, sums in tally.layer_sums(0, ACCUMULATED).items() if sums[:, _ROUTED].any()]
    hidden = [layer for layer in routed if layer not in tally.margins()]
    if not hidden:
        return []
    which = "any layer" if hidden == routed else f"layers {', '.join(map(str, hidden))}"
    return [f"the router's logits are not visible in {which}: no margins there"]


def _kind(entry: dict[str, Any]) -> str:
    return "noise floor" if entry["name"] == NOISE_FLOOR else "build" if "build" in entry else "recipe"
