"""One pass over a source's weights that judges any number of recipes and builds against the full-precision model.

    for each layer:  read its weights, once
                     the reference's hidden states through it, and the noise floor's
                     each candidate's through its own form of the same layer (see `layer_step`)
                     drop the weights

Documents go through one by one, unpadded, long ones in chunks through the layer's own cache, so each layer sees
exactly what an ordinary forward with the same chunks would give it. Only scores leave the pass (see `scores`); with a
work folder it goes on where it was killed, and under `mlx.launch` the documents are split over the ranks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash

from ..errors import UsageError
from ..layout.layout import read_layout
from ..plan.plan import source_record
from ..records.head import describe_machine, describe_versions, peak_memory
from ..source.checkpoint import Checkpoint
from ..source.hub.arriving import Arriving
from ..source.hub.reader import HubReader
from ..source.stamps import source_signature
from .candidates import BuildLane, Candidate, RecipeLane, Source, lanes_of
from .options import COMPUTING, NOISE_FLOOR, HasTokens, Options, Pass, Progress
from .ranks import Ranks
from .routing import Taps, find_places
from .scores import Sink
from .state import SETS, Hidden, Kept, Work, check_work
from .steps import Running, Streams, run_embedding, run_head, run_layer, width_of
from .weights import Quantizer

__all__ = ["COMPUTING", "NOISE_FLOOR", "Candidate", "HasTokens", "Options", "Pass", "Progress", "compare"]


def compare(
    source: Checkpoint,
    candidates: Sequence[Candidate],
    documents: Sequence[HasTokens],
    sink: Sink,
    options: Options | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> Pass:
    """Judge candidates against the source, in one pass over its weights; the sink gets the scores.

    `ranks` are the processes that share the documents, found here if the caller has not.

    Raises LayoutError for an architecture that cannot be streamed, PlanError or BuildError for a candidate that does
    not fit the source, UsageError for options that this device cannot do, OutputError for the work folder.
    """
    began, options = time.monotonic(), options or Options()
    computing = _computing(options)
    ranks = ranks or Ranks.join()
    folder = ranks.folder(options.work)
    check_work(folder, [("the source", source.folder), *(("--build", c.build) for c in candidates)])
    layout = read_layout(source, dtype=options.dtype)
    src = Source(source, layout, computing)
    quantizer = Quantizer(src.views, allow_nonfinite=options.allow_nonfinite)
    try:
        lanes = lanes_of(candidates, src, quantizer)
        mine = ranks.share([len(d.tokens) for d in documents])
        run, notes = _running(src, lanes, documents, mine, sink, options, folder)
        signature = _signature(source, lanes, candidates, documents, options, ranks)
        work = Work(
            folder,
            signature,
            every_s=options.keep_every_s,
            fresh=options.fresh,
            shards=source.files if isinstance(source.reader, HubReader) else (),
        )
        with work:
            figures, resumed = _go(run, work, quantizer, progress, lambda: ranks.begin(_asked(signature)))
            merged = ranks.merge(sink, figures)
            work.finish()
    finally:
        quantizer.close()
    return Pass(
        source=source_record(layout, source),
        candidates=[_told(lane) for lane in lanes] + ([{"name": NOISE_FLOOR}] if options.noise_floor else []),
        layers=len(src.paths),
        compute=options.compute,
        compute_reason=_reason(options),
        source_bytes=src.expected_bytes(),
        bytes_read=merged["bytes_read"],
        seconds=time.monotonic() - began,
        step_seconds=figures["step_seconds"],
        peak_memory_bytes=peak_memory(),
        mlx_peak_bytes=mx.get_peak_memory(),
        resumed_at=resumed,
        ranks=ranks.size,
        rank=ranks.rank,
        tokens=sum(len(d.tokens) for d in documents),
        notes=[*source.notes, *layout.notes, *notes],
    )


def _go(
    run: Running,
    work: Work,
    quantizer: Quantizer,
    progress: Callable[[Progress], None],
    begin: Callable[[], None],
) -> tuple[dict[str, Any], str | None]:
    """Run all steps that are not finished yet. Gives the figures, and the step that an earlier run was left at."""
    steps = run.source.steps() if run.documents else []
    figures: dict[str, Any] = {"bytes_read": 0, "step_seconds": {}}
    first, resumed = 0, None
    arriving = Arriving(run.source.checkpoint.reader, [run.source.files(step) for step in steps], work.folder)
    try:
        kept = _usable(work.kept(), run.hidden)
        begin()
        if kept is not None:
            first, figures = kept.step, kept.figures
            run.sink.restore(kept.sink)
            run.hidden.start_from(kept.which)
            resumed = str(steps[first])
            progress(Progress(first, len(steps), f"going on at {_name(steps[first])}", 0.0, resumed=True))
        arriving.start(first, SETS * run.hidden.nbytes)
        before = figures["bytes_read"]
        for number in range(first, len(steps)):
            began = time.monotonic()
            step = steps[number]
            if step == "embedding":
                run_embedding(run)
            elif step == "head":
                run_head(run)
            else:
                run_layer(run, step)
            quantizer.forget()
            mx.clear_cache()
            if step != "head":
                run.hidden.turn()
            seconds = time.monotonic() - began
            figures["step_seconds"][str(step)] = round(seconds, 3)
            figures["bytes_read"] = before + run.source.views.bytes_read
            if step == "embedding" or (step != "head" and work.due()):
                work.keep(number + 1, run.hidden, run.sink.state(), figures)
            arriving.release(number)
            progress(Progress(number + 1, len(steps), _name(step), seconds))
    finally:
        arriving.stop()
        run.hidden.close()
    return figures, resumed


def _usable(kept: Kept | None, hidden: Hidden) -> Kept | None:
    """What was kept, if the hidden states are those that it was kept with."""
    return kept if kept is not None and hidden.matches(kept.which, kept.digest) else None


def _running(
    src: Source,
    lanes: list[RecipeLane | BuildLane],
    documents: Sequence[HasTokens],
    mine: Sequence[int],
    sink: Sink,
    options: Options,
    folder: Path | None,
) -> tuple[Running, list[str]]:
    places, notes = find_places(src.streamed.model, src.layout.modules, src.paths)
    models = {s.name: s for s in (src.streamed, *(lane.streamed for lane in lanes))}
    if len(models) != 1 + len(lanes):
        raise UsageError("two candidates have one name; give them names of their own")
    tokens = [np.asarray(documents[i].tokens, np.int32) for i in mine]
    streams = Streams(len(lanes), options.noise_floor, options.teacher_forced_routing)
    run = Running(
        source=src,
        lanes=lanes,
        documents=tokens,
        numbers=list(mine),
        sink=sink,
        chunk=options.chunk,
        own=options.own,
        taps={name: Taps(s.model, places) for name, s in models.items()},
        streams=streams,
        hidden=Hidden(folder, streams.count, [len(d) for d in tokens], width_of(src), src.dtype),
    )
    return run, notes


def _computing(options: Options) -> str | None:
    if options.compute == "served":
        return None
    if options.compute not in COMPUTING:
        raise UsageError(f"compute: one of {', '.join([*COMPUTING, 'served'])} expected, {options.compute!r} given")
    return COMPUTING[options.compute]


def _reason(options: Options) -> str:
    on = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
    if options.compute == "served":
        return f"computed on the {on} in the dtypes that the builds store, as they will be served"
    why = ", where mlx gathers experts in float32 only" if on == "CPU" else ""
    return f"every float cast to {options.compute} and computed on the {on}{why}; no dequantized weight is rounded"


def _signature(
    source: Checkpoint,
    lanes: Sequence[RecipeLane | BuildLane],
    candidates: Sequence[Candidate],
    documents: Sequence[HasTokens],
    options: Options,
    ranks: Ranks,
) -> dict[str, Any]:
    """Everything that a score depends on."""
    seen = xxhash.xxh3_128()
    for document in documents:
        seen.update(len(document.tokens).to_bytes(8, "little"))
        seen.update(np.ascontiguousarray(document.tokens, np.int32).data)
    told: dict[str, Any] = {}
    for c, lane in zip(candidates, lanes, strict=True):
        if isinstance(lane, RecipeLane):
            told[c.name] = {"recipe": lane.plan.recipe.sha256, "overrides": list(lane.plan.recipe.overrides)}
        else:
            told[c.name] = {"build": source_signature(lane.checkpoint)["files"]}
    return {
        "source": source_signature(source),
        "candidates": told,
        "order": [c.name for c in candidates],
        "documents": {"count": len(documents), "hash": seen.hexdigest()},
        "options": options.that_change_scores(),
        "ranks": f"{ranks.rank} of {ranks.size}",
        "versions": describe_versions(),
        "architecture": describe_machine()["architecture"],
    }


def _asked(signature: dict[str, Any]) -> str:
    """What all ranks must have in common; not what differs from copy to copy of one file, such as its date."""
    recipes = {name: told for name, told in signature["candidates"].items() if "recipe" in told}
    return json.dumps([recipes, *(signature[key] for key in ("order", "documents", "options"))], sort_keys=True)


def _told(lane: RecipeLane | BuildLane) -> dict[str, Any]:
    """What the pass tells of a candidate."""
    told: dict[str, Any] = {"name": lane.name, "bytes": lane.nbytes, "bpw": lane.bpw}
    if isinstance(lane, RecipeLane):
        totals, recipe = lane.plan.totals, lane.plan.recipe
        told["active_bytes_per_token"] = totals["active_bytes_per_token"]
        told["recipe"] = {"name": recipe.name, "sha256": recipe.sha256, "overrides": list(recipe.overrides)}
        told["warnings"] = list(lane.plan.warnings)
    else:
        told["build"] = lane.checkpoint.name
    return told


def _name(step: Any) -> str:
    return f"layer {step}" if isinstance(step, int) else f"the {step}"
