"""Writing the build that a plan describes, in bounded memory, so that a crash costs little.

All that can be refused is refused before anything is written. Then shards are filled in ``OUT.partial/build`` (see
`filling`), the files beside them are written, the manifest last, and when all of it is on the disk one rename makes it
OUT; nothing with that name exists before. A rerun of the same command takes up where the last one ended, wherever
that was. Memory is threads × block, whatever the model.

What numbers become is the encoder's (see `kernels.encoder`): by default rounding, byte for byte as mlx-lm rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...disk import files as disk
from ...disk.journal import Journal
from ...disk.work_folder import check_apart
from ...errors import MlxquantError, NonFiniteError, OutputError, SourceError, UsageError
from ...kernels import Encoder, Rounding
from ...layout.carried import MTP_FILE
from ...layout.layout import Layout
from ...plan.plan import Plan, recipe_record
from ...records.files import record_text
from ...report.audit_markdown import audit_markdown
from ...source.checkpoint import Checkpoint
from ...source.hub.reader import HubReader
from ...source.index import INDEX
from ...words.progress import Watch, unwatched
from ...words.units import show_bytes
from ..audit_record import entries_of, make_record
from ..manifest import MANIFEST, describe_origin, is_build_of, make_manifest, manifest_text
from ..side_files import config_text, read_sides
from .filling import Filling
from .hashing import sha256
from .partial import Partial
from .pieces import SIZES, SPAN_COST, Piece, Sizes, needs_of, outputs, pieces
from .shards import index, place, place_apart
from .signature import make_signature

_RECORDS = ("audit.json", "AUDIT.md", MANIFEST)
# Room on the disk for the files beside the weights.
SLACK = 64 << 20
# What the process takes before the first block: interpreter, mlx, numba.
BASE_MEMORY = 300 << 20


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """How to convert. `audit` sums errors, `hash` takes SHA-256 and tensor checksums.

    `threads` work side by side, fewer where they would need more than `max_memory` bytes. `fresh` throws unfinished
    work away. With `reuse` an OUT that is this very build already is taken as it is; else any OUT is refused. `sizes`
    are the portions of work, which no byte of the build depends on but those of shards and of error sums.
    """

    dtype: str | None = None
    audit: bool = True
    hash: bool = True
    allow_nonfinite: bool = False
    trust_remote_code: bool = False
    device: str = "cpu"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    max_memory: int | None = None
    fresh: bool = False
    reuse: bool = False
    sizes: Sizes = SIZES

    def recorded(self) -> dict[str, Any]:
        """The options that the manifest records: all but those that only change how fast it goes."""
        return {**self.that_change_bytes(), "allow_nonfinite": self.allow_nonfinite}

    def that_change_bytes(self) -> dict[str, Any]:
        """The options that a finished piece depends on. Finite values are the same bytes with `allow_nonfinite`."""
        return {
            "dtype": self.dtype,
            "audit": self.audit,
            "hash": self.hash,
            "trust_remote_code": self.trust_remote_code,
            "device": self.device,
        }


@dataclass(frozen=True, slots=True)
class Converted:
    """A finished build: where, how large, how long it took, what a rerun found done."""

    out: Path
    nbytes: int
    seconds: float
    resumed_bytes: int


def convert(
    source: Checkpoint,
    layout: Layout,
    plan: Plan,
    out: Path,
    options: ConvertOptions,
    watch: Watch = unwatched,
    *,
    encoder: Encoder | None = None,
) -> Converted:
    """Write the build to `out`, which appears only when complete; `encoder` is `Rounding` unless one is given.

    Raises OutputError (OUT exists, no room, held by another run), SourceError (a file that changed or ended
    early), NonFiniteError. What is finished stays in ``OUT.partial`` for the next run of the same command.
    """
    began = time.monotonic()
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights to convert; give the checkpoint's folder")
    work = _Work(source, layout, plan, options, encoder or Rounding(options.allow_nonfinite, options.device))
    if options.reuse and is_build_of(out, work.origin):
        source.close()
        return Converted(out, work.nbytes, time.monotonic() - began, work.nbytes)
    partial = Partial(out, work.names, source.files if work.hub is not None else ())
    try:
        _check_out(partial, work)
    except OSError as error:
        raise OutputError(f"{out}: {error.filename} is out of reach ({error.strerror}); choose another OUT") from None
    with partial.claimed():
        if os.path.lexists(out):
            if not is_build_of(out, work.origin):
                raise OutputError(f"{out}: exists already; choose another OUT, or remove it first")
            partial.clear()  # a run was killed between the rename and this: all is done
            return Converted(out, work.nbytes, time.monotonic() - began, work.nbytes)
        resumed = _build(work, partial, watch, began)
        partial.publish()
        partial.clear()
    return Converted(out, work.nbytes, time.monotonic() - began, resumed)


class _Work:
    """What one conversion comes down to, known before anything is written."""

    def __init__(
        self, source: Checkpoint, layout: Layout, plan: Plan, options: ConvertOptions, encoder: Encoder
    ) -> None:
        self.source, self.plan, self.options, self.encoder = source, plan, options, encoder
        self.indexed = place(list(plan.arrays()), options.sizes.shard)
        self.shards = [*self.indexed, *place_apart(MTP_FILE, list(plan.carried_arrays()))]
        self.nbytes = sum(s.nbytes for s in self.shards)
        self.todo = [p for output in outputs(plan, layout.views) for p in pieces(output, options.sizes)]
        self.threads = _thread_count(self.todo, options)
        self.sides = read_sides(source, plan, trust_remote_code=options.trust_remote_code)
        more: dict[str, Any] = {"keep": list(plan.carried)}
        if encoder.signature:
            more["encoder"] = dict(encoder.signature)
        self.hub = source.reader if isinstance(source.reader, HubReader) else None
        needs = needs_of(self.todo) if self.hub is not None else []
        if self.hub is not None:
            self.hub.prepare(needs)
        read = frozenset[str]().union(*needs)
        self.origin = describe_origin(plan, source, self.sides, {**options.recorded(), **more}, read)
        self.signature = make_signature(source, plan, {**options.that_change_bytes(), **more}, self.sides)
        self.names = {s.name for s in self.shards} | {"config.json", INDEX, *self.sides, *_RECORDS}

    def files(self, errors: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """The build's files beside the weights, in the order in which they are written, the manifest excepted."""
        plan = self.plan
        yield "config.json", config_text(self.source.config, plan)
        yield INDEX, index(self.indexed, plan.totals["parameters"])
        yield from self.sides.items()
        recipe, notes = recipe_record(plan.recipe), (*plan.notes, *plan.warnings)
        record = make_record(entries_of(plan, errors), source=plan.source, recipe=recipe, notes=notes)
        yield "audit.json", (record_text(record) + "\n").encode()
        yield "AUDIT.md", audit_markdown(record).encode()


def _build(work: _Work, partial: Partial, watch: Watch, began: float) -> int:
    """Make the whole build in OUT.partial. Gives the bytes that earlier runs had finished."""
    options, filling = work.options, None
    journal = _open_journal(work, partial)
    try:
        filling = Filling(work.shards, partial.build, work.source, journal, watch, options.sizes)
        filling.open(hash_files=options.hash)
        if work.hub is not None:
            begun = {i for i, piece in enumerate(work.todo) if piece.key in journal.finished}
            work.hub.start(partial.source, begun)
            filling.release = work.hub.release
        filling.fill(
            work.todo, work.threads, work.encoder, errors=options.audit, allow_nonfinite=options.allow_nonfinite
        )
        _finish(work, filling, partial.build, began)
        return filling.resumed
    except (MlxquantError, KeyboardInterrupt) as error:
        work.source.close()  # nothing comes any more
        if isinstance(error, NonFiniteError) and filling is not None:
            worthless = filling.made + filling.resumed <= options.sizes.worth_keeping
        else:
            worthless = journal.empty and not partial.holds_source()
        if worthless:
            with suppress(OutputError):
                partial.discard()
        raise
    finally:
        if filling is not None:
            filling.close()
        journal.close()
        work.source.close()


def _open_journal(work: _Work, partial: Partial) -> Journal:
    """Open the journal of OUT.partial, a new one with --fresh. Raises OutputError where it is of other work."""
    if work.options.fresh:
        partial.empty()
    known = partial.journal.exists()
    try:
        journal = Journal(partial.journal, work.signature, len(work.todo))
    except OutputError:
        if not known:
            with suppress(OutputError):
                partial.discard()
        raise
    try:
        partial.own()
        partial.check_files(work.names)
    except OutputError:
        journal.close()
        raise
    return journal


def _finish(work: _Work, filling: Filling, folder: Path, began: float) -> None:
    """Write everything beside the weights, the manifest last, and flush it all."""
    hashes: Mapping[str, str] = {}
    if filling.hasher is not None:
        filling.hasher.finish()
        hashes = filling.hasher.files
    filling.check_source()
    files = {s.name: (s.nbytes, hashes.get(s.name)) for s in work.shards}
    for name, data in work.files(filling.errors):
        disk.write_file(folder / name, data)
        files[name] = (len(data), sha256(data))
    seconds = time.monotonic() - began
    run = {
        "seconds": round(seconds, 3),
        "bytes_per_second": round(filling.made / max(seconds, 1e-9)),
        "resumed_bytes": filling.resumed,
        "jobs": work.options.threads,
    }
    arrays = filling.hasher.arrays if filling.hasher is not None else {}
    manifest = make_manifest(work.origin, work.shards, arrays, files, run)
    disk.write_file(folder / MANIFEST, manifest_text(manifest))


def _check_out(partial: Partial, work: _Work) -> None:
    """Refuse before anything is written where OUT exists, cannot be made, or has no room on its disk."""
    out = partial.out
    if os.path.lexists(out):
        if partial.folder.is_dir() and is_build_of(out, work.origin):
            return  # made, but not cleaned up after
        raise OutputError(f"{out}: exists already; choose another OUT, or remove it first")
    partial.check()
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: {parent} cannot be written to; choose another OUT")
    folder = work.source.folder
    if folder is not None and parent.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{out}: lies in the checkpoint's own folder, and would be taken along by whoever copies or uploads that;"
            " choose a folder beside it"
        )
    if folder is not None:
        check_apart(partial.folder, [("the checkpoint", folder)], "folder for unfinished work")
    held, free = partial.held_bytes(), disk.free_bytes(parent)
    shards = work.hub.check_room(out, work.nbytes, held) if work.hub is not None else 0
    if work.nbytes + shards + SLACK - held > free:
        also = f" and the shards that it is made from {shards:,} at a time" if shards else ""
        raise OutputError(
            f"{out}: the build takes {work.nbytes:,} bytes{also}; {free + held:,} are free there;"
            " make room or choose another disk"
        )


def _thread_count(todo: Sequence[Piece], options: ConvertOptions) -> int:
    """As many threads as the options say, fewer where `max_memory` allows no more. Raises UsageError below one."""
    if options.threads < 1:
        raise UsageError(f"--jobs: at least 1 expected, {options.threads} given")
    if options.max_memory is None:
        return options.threads
    cost = max((_block_cost(p) for p in todo), default=0)
    fit = (options.max_memory - BASE_MEMORY) // max(cost, 1)
    if fit < 1:
        need = BASE_MEMORY + cost
        raise UsageError(
            f"--max-memory: {show_bytes(need)} are needed for one worker on this model,"
            f" {show_bytes(options.max_memory)} given; give --max-memory {-(-need // (1 << 20))}MB or more"
        )
    return min(options.threads, fit)


def _block_cost(piece: Piece) -> int:
    """Bytes that a thread may hold at once for a piece: source rows, their cast, the packed result, a read."""
    output = piece.output
    rows = max(n for _, n in piece.blocks)
    return rows * (2 * output.source_row_bytes + sum(output.row_bytes(p) for p in output.parts)) + SPAN_COST
