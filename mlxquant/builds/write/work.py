"""What a conversion comes down to before anything is written: the pieces, the files, what is refused.

`Work` is that of one build; `check_outs` and `thread_count` look at all builds that are written from one reading. What
happens then, and in what order, is `convert`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...disk import files as disk
from ...disk.work_folder import check_apart
from ...errors import OutputError, UsageError
from ...kernels import CalibratedEncoder, Encoder, PreparedEncoder
from ...layout.carried import MTP_FILE
from ...layout.layout import Layout
from ...plan.plan import Plan, recipe_record
from ...records.files import record_text
from ...report.audit_markdown import audit_markdown
from ...source.checkpoint import Checkpoint
from ...source.hub.reader import HubReader
from ...source.index import INDEX
from ...words.units import show_bytes, show_size
from ..audit_record import entries_of, make_record
from ..manifest import MANIFEST, describe_origin, is_build_of
from ..side_files import config_text, read_sides, side_notes
from .opening import Opening
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


class Work:
    """What the conversion to one build comes down to, known before anything is written.

    `todo` are its pieces: all builds of one layout have the same ones, whatever their recipes.
    """

    def __init__(
        self, source: Checkpoint, layout: Layout, plan: Plan, options: ConvertOptions, encoder: Encoder
    ) -> None:
        self.source, self.plan, self.options, self.encoder = source, plan, options, encoder
        self.config = layout.config
        self.indexed = place(list(plan.arrays()), options.sizes.shard)
        self.shards = [*self.indexed, *place_apart(MTP_FILE, list(plan.carried_arrays()))]
        self.nbytes = sum(s.nbytes for s in self.shards)
        self.todo = [p for output in outputs(plan, layout.views) for p in pieces(output, options.sizes)]
        self.sides = read_sides(source, plan, trust_remote_code=options.trust_remote_code)
        self.side_notes = side_notes(source, self.sides, trust_remote_code=options.trust_remote_code)
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
        yield "config.json", config_text(self.config, plan)
        yield INDEX, index(self.indexed, plan.totals["parameters"])
        yield from self.sides.items()
        encoder_notes = self.encoder.notes if isinstance(self.encoder, PreparedEncoder) else ()
        inputs = self.encoder.inputs if isinstance(self.encoder, CalibratedEncoder) else lambda _: None
        recipe, notes = recipe_record(plan.recipe), (*plan.notes, *plan.warnings, *self.side_notes, *encoder_notes)
        record = make_record(entries_of(plan, errors, inputs), source=plan.source, recipe=recipe, notes=notes)
        yield "audit.json", (record_text(record) + "\n").encode()
        yield "AUDIT.md", audit_markdown(record).encode()


def check_outs(builds: Sequence[tuple[Work, Partial]]) -> Opening:
    """Refuse before anything is written where an OUT exists, cannot be made, or the disk has no room for them all.

    Gives what the conversion takes of the disk.
    """
    for work, partial in builds:
        try:
            _check_out(partial, work)
        except OSError as error:
            raise OutputError(
                f"{partial.out}: {error.filename} is out of reach ({error.strerror}); choose another OUT"
            ) from None
    work, partial = builds[0]
    folder, total, held = _parent(partial.out), sum(w.nbytes for w, _ in builds), sum(p.held_bytes() for _, p in builds)
    free = disk.free_bytes(folder)
    shards = work.hub.check_room(partial.out, total, held) if work.hub is not None else 0
    prepared = sum(w.encoder.nbytes for w, _ in builds if isinstance(w.encoder, PreparedEncoder))
    if total + shards + prepared + SLACK - held > free:
        also = f" and the shards that it is made from {show_size(shards)} at a time" if shards else ""
        also += f" and what is encoded before {show_size(prepared)}" if prepared else ""
        what = "the build takes" if len(builds) == 1 else f"the {len(builds)} builds take"
        raise OutputError(
            f"{partial.out}: {what} {show_size(total)}{also}; {show_size(free + held)} are free there;"
            " make room or choose another disk"
        )
    cached = work.hub.cached_bytes() if work.hub is not None else 0
    return Opening(sum(work.source.files.values()), total, free, folder, work.hub is not None, cached_bytes=cached)


def _parent(out: Path) -> Path:
    """The folder above OUT that is there."""
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    return parent


def _check_out(partial: Partial, work: Work) -> None:
    """Refuse an OUT that exists, cannot be made, or lies in the checkpoint's own folder."""
    out = partial.out
    if os.path.lexists(out):
        if partial.folder.is_dir() and is_build_of(out, work.origin):
            return  # made, but not cleaned up after
        raise OutputError(f"{out}: exists already; choose another OUT, or remove it first")
    partial.check()
    parent = _parent(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: {parent} cannot be written to; choose another OUT")
    folder = work.source.folder
    if folder is not None and parent.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{out}: lies in the checkpoint's own folder, so copying or uploading that would include it;"
            " choose a folder beside it"
        )
    if folder is not None:
        check_apart(partial.folder, [("the checkpoint", folder)], "folder for unfinished work")


def thread_count(todos: Sequence[Sequence[Piece]], options: ConvertOptions) -> int:
    """As many threads as the options say, fewer where `max_memory` allows no more. Raises UsageError below one.

    `todos` are the pieces of each build, in one order.
    """
    if options.threads < 1:
        raise UsageError(f"--jobs: at least 1 expected, {options.threads} given")
    if options.max_memory is None:
        return options.threads
    cost = max((_block_cost(same) for same in zip(*todos, strict=True)), default=0)
    fit = (options.max_memory - BASE_MEMORY) // max(cost, 1)
    if fit < 1:
        need = BASE_MEMORY + cost
        raise UsageError(
            f"--max-memory: {show_bytes(need)} are needed for one worker on this model,"
            f" {show_bytes(options.max_memory)} given; give --max-memory {-(-need // (1 << 20))}MB or more"
        )
    return min(options.threads, fit)


def _block_cost(same: Sequence[Piece]) -> int:
    """Bytes that a thread may hold at once for a piece of each build: source rows, their cast, the results, a read."""
    rows = max(n for _, n in same[0].blocks)
    results = sum(piece.output.row_bytes(part) for piece in same for part in piece.output.parts)
    return rows * (2 * same[0].output.source_row_bytes + results) + SPAN_COST
