"""One pass over a source's weights that judges any number of recipes and builds against the full-precision model.

    for each layer:  read its weights, once
                     the reference's hidden states through it, and the noise floor's
                     each candidate's through its own form of the same layer (see `steps`)
                     drop the weights

Documents go through one by one, unpadded, long ones in chunks through the layer's own cache, so each layer sees
exactly what an ordinary forward with the same chunks would give it. Only scores leave the pass, through the sink that
the caller gives (see `scores`); what they mean is not known here. With a work folder a killed pass goes on at the layer
that it was in, and under `mlx.launch` the documents are split over the ranks.

What enters the modules of a layer is taken down by a `Listener`: it hooks into the reference's model before the first
step and hears which document comes next. Where it is the sink as well, its sums travel with `Sink.state`, so they
resume and merge as scores do; a pass without candidates and with the noise floor off is the reference alone.

Recipes that are encoded on documents bring these along (`scores.OnDocuments`): they go through each layer of the
reference first, in a stream of their own, and what listens to them encodes the layer before a candidate's is made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash

from ..errors import UsageError
from ..kernels import ColumnWeights
from ..layout.layout import Layout, read_layout
from ..plan.plan import source_record
from ..records.head import describe_machine, describe_versions, peak_memory
from ..source.checkpoint import Checkpoint
from ..source.hub.reader import Arriving, HubReader
from ..source.stamps import source_signature
from ..words.formats import TORCH_DTYPES
from ..words.progress import Progress, Watch, Within, unwatched
from .candidates import (
    Candidate,
    RecipeCandidate,
    Source,
    Step,
    StreamedCandidate,
    open_candidates,
    stated_provider,
)
from .floor import Floor
from .model import Tokens
from .options import NOISE_FLOOR, CompareOptions, HasTokens, Pass
from .ranks import Ranks
from .routing import Taps, find_places
from .running import Running, Streams
from .scores import Listener, OnDocuments, Sink
from .state import CALIBRATE, COMPARE, SETS, Hidden, Work, check_work
from .steps import run_embedding, run_head, run_layer, width_of
from .weights import OwnEncoder, Quantizer


def compare(
    source: Checkpoint,
    candidates: Sequence[Candidate],
    documents: Sequence[HasTokens],
    sink: Sink,
    options: CompareOptions | None = None,
    progress: Watch = unwatched,
    ranks: Ranks | None = None,
    listener: Listener | None = None,
    calibration: Callable[[Layout], ColumnWeights | None] | None = None,
    provider: str | None = None,
    encoding: OnDocuments | None = None,
) -> Pass:
    """Judge candidates against the source, in one pass over its weights; the sink gets the scores.

    `progress` counts steps: the embedding, each layer, the head. `ranks` are the processes that share the documents,
    found here if the caller has not. `listener` takes down what enters the reference's modules; `calibration` gives the
    weights of input columns of a layout, for recipes whose method needs them; `encoding` encodes those that need
    documents. `provider` is whose model class to use, by default that which a build states.

    Raises LayoutError for an architecture that cannot be streamed, PlanError or BuildError for a candidate that does
    not fit the source, UsageError for options that this device cannot do, OutputError for the work folder.
    """
    began, options = time.monotonic(), options or CompareOptions()
    computing = _computing(options)
    ranks = ranks or Ranks.join()
    folder = ranks.folder(options.work)
    inputs = [("the source", source.folder), *(("--build", c.build) for c in candidates)]
    check_work(folder, inputs, COMPARE if listener is None else CALIBRATE)
    layout = read_layout(source, dtype=options.dtype, provider=provider or stated_provider(candidates))
    src = Source(source, layout, computing)
    columns = calibration(layout) if calibration is not None else None
    quantizer = Quantizer(src.views, allow_nonfinite=options.allow_nonfinite, columns=columns)
    try:
        streamed = open_candidates(candidates, src, quantizer, encoding)
        share = ranks.share([len(d.tokens) for d in documents])
        beside = _start(encoding, layout, streamed)
        run, notes = _prepare(src, streamed, documents, share, sink, options, folder, listener, beside)
        signature = _signature(source, streamed, documents, options, ranks)
        signature |= _also(columns, beside, listener)
        shards = source.files if isinstance(source.reader, HubReader) else ()
        work = Work(folder, signature, every_s=options.keep_every_s, fresh=options.fresh, shards=shards)
        with work:
            figures, resumed = _go(run, work, quantizer, progress, lambda: ranks.begin(_common(signature)))
            merged = ranks.merge(sink, figures)
            work.finish()
    finally:
        quantizer.close()
        if encoding is not None:
            encoding.close()
    return _pass(
        run, options, ranks, merged, seconds=round(time.monotonic() - began, 3), resumed_at=resumed,
        step_seconds=figures["step_seconds"], tokens=sum(len(d.tokens) for d in documents), notes=notes,
    )  # fmt: skip


def _pass(
    run: Running, options: CompareOptions, ranks: Ranks, merged: Mapping[str, Any], *, notes: Sequence[str],
    **measured: Any,
) -> Pass:  # fmt: skip
    """What a pass reports: who took part, how it was computed, what it read."""
    source, checkpoint, layout = run.source, run.source.checkpoint, run.source.layout
    floor = [{"name": NOISE_FLOOR}] if options.noise_floor else []
    return Pass(
        source=source_record(layout, checkpoint), candidates=[*(c.entry() for c in run.candidates), *floor],
        layers=len(source.paths), compute=options.compute, compute_reason=_reason(options),
        source_bytes=source.expected_bytes(), bytes_read=merged["bytes_read"], peak_memory_bytes=peak_memory(),
        mlx_peak_bytes=mx.get_peak_memory(), ranks=ranks.size, rank=ranks.rank,
        notes=[*checkpoint.notes, *layout.notes, *notes], **measured,
    )  # fmt: skip


def _go(
    run: Running, work: Work, quantizer: Quantizer, progress: Watch, begin: Callable[[], None]
) -> tuple[dict[str, Any], str | None]:
    """Run all steps that are not finished yet. Gives the figures, and the step that an earlier run was left at."""
    steps = run.source.steps() if run.documents else []
    figures: dict[str, Any] = {"bytes_read": 0, "step_seconds": {}}
    first, resumed = 0, None
    arriving = Arriving(run.source.checkpoint.reader, [run.source.files(step) for step in steps], work.folder)
    try:
        resume = work.resume()
        # a power failure may have cut the hidden states: then the pass begins anew, as if nothing was there
        if resume is not None and not run.hidden.matches(resume.which, resume.digest):
            resume = None
        begin()  # every rank is known to have come here, or all end
        if resume is not None:
            first, figures = resume.step, resume.figures
            run.sink.restore(resume.sink)
            run.hidden.start_from(resume.which)
            resumed = str(steps[first])
            progress(Progress(first, len(steps), f"going on at {_name(steps[first])}", resumed=True))
        arriving.start(first, SETS * run.hidden.nbytes)
        earlier = figures["bytes_read"]  # by the runs before this one
        for number in range(first, len(steps)):
            began, step = time.monotonic(), steps[number]
            within = Within(progress, number, len(steps), _name(step), run.tokens_of_layer(), "tokens")
            run.watch(within.advance)
            _run_step(run, step)
            quantizer.forget()
            mx.clear_cache()  # else mlx holds the memory of a layer that is gone while the next one is read
            if step != "head":
                run.hidden.turn()
            seconds = time.monotonic() - began
            figures["step_seconds"][str(step)] = round(seconds, 3)
            figures["bytes_read"] = earlier + run.source.views.bytes_read
            # the head leaves no states behind; after it there is nothing to go on with
            if step == "embedding" or (step != "head" and work.due()):
                work.keep(number + 1, run.hidden, run.sink.state(), figures)
            arriving.release(number)  # only now: a resumed run reads the shards of the step that it goes on at
            progress(Progress(number + 1, len(steps), _name(step), seconds=seconds))
    finally:
        arriving.stop()
        run.hidden.close()
    return figures, resumed


def _run_step(run: Running, step: Step) -> None:
    if step == "embedding":
        run_embedding(run)
    elif step == "head":
        run_head(run)
    else:
        run_layer(run, step)


@dataclass(frozen=True)
class _Beside:
    """What encodes candidates, its documents, and what listens to them."""

    encoding: OnDocuments
    documents: Sequence[Tokens]
    listeners: Sequence[Listener]


def _start(encoding: OnDocuments | None, layout: Layout, candidates: Sequence[StreamedCandidate]) -> _Beside | None:
    """Give recipes that need it their encoder; None where there is none."""
    wanting = [c for c in candidates if isinstance(c, RecipeCandidate) and c.on_documents]
    if encoding is None or not wanting:
        return None
    listeners = encoding.start(layout, {c.name: c.plan for c in wanting}, {c.name: c.early() for c in wanting})
    for c in wanting:
        c.own = OwnEncoder(encoding.encoder(c.name), encoding.origin(c.name))
    return _Beside(encoding, [np.asarray(d.tokens, np.int32) for d in encoding.documents], listeners)


def _prepare(
    source: Source,
    candidates: list[StreamedCandidate],
    documents: Sequence[HasTokens],
    share: Sequence[int],
    sink: Sink,
    options: CompareOptions,
    folder: Path | None,
    listener: Listener | None,
    beside: _Beside | None,
) -> tuple[Running, list[str]]:
    """Put together what all steps share; `share` are the numbers of this rank's documents. Gives notes, too."""
    places, notes = find_places(source.streamed.model, source.layout.modules, source.paths)
    floor = Floor(source) if options.noise_floor else None
    floors = [floor.streamed] if floor is not None else []
    models = {m.name: m for m in (source.streamed, *floors, *(c.streamed for c in candidates))}
    if len(models) != 1 + len(floors) + len(candidates):
        raise UsageError("two candidates have one name; give them names of their own")
    width = width_of(source)
    listeners = beside.listeners if beside is not None else []
    for each in (*listeners, *([] if listener is None else [listener])):
        each.attach(source.streamed.model)  # last: what is computed to find out about the model is no input
    tokens = [np.asarray(documents[i].tokens, np.int32) for i in share]
    encoded = listener is not None and listener.learns
    streams = Streams(len(candidates), options.noise_floor, options.teacher_forced_routing, encoded)
    lengths = [[len(t) for t in tokens]] * streams.count
    if beside is not None:
        lengths += [[len(t) for t in beside.documents]] * len(listeners)
    run = Running(
        source=source,
        candidates=candidates,
        documents=tokens,
        numbers=list(share),
        sink=sink,
        chunk=options.chunk,
        own=options.own,
        taps={name: Taps(m.model, places) for name, m in models.items()},
        streams=streams,
        hidden=Hidden(folder, lengths, width, _widest(source, floor)),
        floor=floor,
        listener=listener,
    )
    if beside is not None:
        run.beside = [_run_beside(run, beside, number) for number in range(len(listeners))]
        run.forget_encoded = beside.encoding.forget
    return run, notes


def _run_beside(run: Running, beside: _Beside, number: int) -> Running:
    """The reference on the documents that candidates are encoded on, as `convert` has them: in its chunks."""
    alone = Streams(0, noise_floor=False, forced=False)
    return replace(
        run, candidates=[], documents=beside.documents, numbers=range(len(beside.documents)),
        chunk=CompareOptions().chunk, own=False, streams=alone, floor=None, listener=beside.listeners[number],
        reference=run.streams.count + number,
    )  # fmt: skip


def _widest(source: Source, floor: Floor | None) -> mx.Dtype:
    """The dtype that holds every model's hidden states as they are."""
    return mx.float32 if floor is not None else source.dtype


def _computing(options: CompareOptions) -> str | None:
    """The dtype that floats are cast to, by its name in headers; None leaves them. Raises UsageError."""
    if options.compute == "served":
        return None
    if options.compute not in TORCH_DTYPES:
        raise UsageError(f"compute: one of {', '.join([*TORCH_DTYPES, 'served'])} expected, {options.compute!r} given")
    return TORCH_DTYPES[options.compute]


def _reason(options: CompareOptions) -> str:
    on = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
    if options.compute == "served":
        added = "; products are added up in float32, as a GPU does" if on == "CPU" else ""
        return f"computed on the {on} in the dtypes that the builds store, as they will be served{added}"
    added = "; products are added up in float32" if on == "CPU" and options.compute != "float32" else ""
    return f"every float cast to {options.compute} and computed on the {on}; no dequantized weight is rounded{added}"


def _signature(
    source: Checkpoint,
    candidates: Sequence[StreamedCandidate],
    documents: Sequence[HasTokens],
    options: CompareOptions,
    ranks: Ranks,
) -> dict[str, Any]:
    """Everything that a score depends on: a pass goes on only where all of it is the same."""
    checksum = xxhash.xxh3_128()
    for document in documents:
        # lengths too: else two documents that are cut at another place would count as the same
        checksum.update(len(document.tokens).to_bytes(8, "little"))
        checksum.update(np.ascontiguousarray(document.tokens, np.int32).data)
    return {
        "source": source_signature(source),
        "candidates": {c.name: c.signature() for c in candidates},
        "order": [c.name for c in candidates],
        "documents": {"count": len(documents), "hash": checksum.hexdigest()},
        "options": options.that_change_scores(),
        "ranks": f"{ranks.rank} of {ranks.size}",
        "versions": describe_versions(),
        "architecture": describe_machine()["architecture"],
    }


def _also(columns: ColumnWeights | None, beside: _Beside | None, listener: Listener | None) -> dict[str, Any]:
    """What a score depends on where there is such."""
    also: dict[str, Any] = {} if columns is None else {"columns": dict(columns.signature)}
    if beside is not None:
        also["encoding"] = dict(beside.encoding.signature)
    return also if listener is None else also | {"listens": True}


def _common(signature: dict[str, Any]) -> str:
    """What all ranks must have in common; not what differs from copy to copy of one file, such as its date."""
    recipes = {name: entry for name, entry in signature["candidates"].items() if "recipe" in entry}
    common = [recipes, *(signature[key] for key in ("order", "documents", "options"))]
    if "encoding" in signature:
        common.append(signature["encoding"]["documents"])
    return json.dumps(common, sort_keys=True)


def _name(step: Step) -> str:
    return f"layer {step}" if isinstance(step, int) else f"the {step}"
