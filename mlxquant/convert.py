"""Writing the build that a plan describes, in bounded memory, so that a crash costs little.

Every output byte's place is known beforehand. Shard files are laid out in ``OUT.partial/build``, workers fill
them piece by piece, and each finished piece is flushed and journaled. A rerun of the same command takes up
there. When all is written, hashed and accounted for, one rename makes it OUT; nothing with that name exists
before. Memory is workers × block, whatever the model.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from . import disk
from .account import entries_of, make_record
from .account_text import markdown
from .build_files import config_text, side_files
from .checkpoint import Checkpoint
from .errors import NonFiniteError, OutputError, SourceError, UsageError
from .hashing import FollowingHasher, file_sha256
from .journal import Finished, Journal, locked, signature_in
from .kernels import BlockErrors
from .layout import Layout
from .machine import describe_versions
from .manifest import MANIFEST, make_manifest, manifest_text
from .pieces import SPAN_COST, Job, Piece, jobs, pieces
from .plan import Plan
from .shards import Shard, index, place
from .worker import Settings, Target, Workers

# Output bytes between two flushes: what a crash may cost at most, with what the workers hold.
FLUSH = 128 << 20
# A failed run that got no further than this leaves nothing behind.
WORTH_KEEPING = 256 << 20
# Room on the disk for the files beside the weights.
SLACK = 64 << 20
# What the process takes before the first block: interpreter, mlx, numba.
BASE_MEMORY = 300 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to convert. `audit` sums errors, `hash` takes SHA-256 and tensor checksums."""

    dtype: str | None = None
    audit: bool = True
    hash: bool = True
    allow_nonfinite: bool = False
    trust_remote_code: bool = False
    device: str = "cpu"
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    max_memory: int | None = None
    fresh: bool = False

    def that_change_bytes(self) -> dict[str, Any]:
        """The options that the build's bytes depend on."""
        return {
            "dtype": self.dtype,
            "audit": self.audit,
            "hash": self.hash,
            "trust_remote_code": self.trust_remote_code,
            "device": self.device,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a conversion is: output bytes done and in all, and the module at hand."""

    done: int
    total: int
    module: str


@dataclass(frozen=True, slots=True)
class Converted:
    """A finished build: where, how large, how long it took, what a rerun found done."""

    out: Path
    nbytes: int
    seconds: float
    resumed_bytes: int


Watch = Callable[[Progress], None]


def convert(
    source: Checkpoint, layout: Layout, plan: Plan, out: Path, options: Options, watch: Watch = lambda _: None
) -> Converted:
    """Write the build to `out`, which appears only when complete.

    Raises OutputError (OUT exists, no room, held by another run), SourceError (a file that changed or ended
    early), NonFiniteError. What is finished stays in ``OUT.partial`` for the next run of the same command.
    """
    began = time.monotonic()
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights to convert; give the checkpoint's folder")
    partial = out.with_name(out.name + ".partial")
    shards = place(list(plan.arrays()))
    total = sum(s.nbytes for s in shards)
    signature = _signature(source, plan, options)
    if out.exists() or out.is_symlink():
        if signature_in(partial) == _as_json(signature) and not (partial / "build").exists():
            disk.remove(partial)  # killed between the rename and the clean-up: all is done
            return Converted(out, total, time.monotonic() - began, total)
        raise OutputError(f"{out}: exists already; choose another OUT, or remove it first")
    _check_room(out, partial, total)
    todo = [p for job in jobs(plan, layout.views) for p in pieces(job)]
    workers = _worker_count(todo, options)
    known = partial.exists()
    disk.make_folder(partial)
    with locked(partial, out):
        if options.fresh:
            for name in ("build", "journal.jsonl"):
                disk.remove(partial / name)
        build = _Build(source, plan, partial, shards, todo, options, Journal(partial, signature), watch)
        try:
            build.make(workers, known=known)
            build.finish(began)
        except NonFiniteError:
            if build.done_here <= WORTH_KEEPING and not build.resumed:
                disk.remove(partial)
            raise
        finally:
            build.close()
        disk.rename(partial / "build", out)
        disk.flush_folder(out.parent)
        disk.remove(partial)
    return Converted(out, total, time.monotonic() - began, build.resumed)


class _Build:
    """One build in the making: the open shards, what is finished, what the checks found."""

    def __init__(
        self,
        source: Checkpoint,
        plan: Plan,
        partial: Path,
        shards: Sequence[Shard],
        todo: Sequence[Piece],
        options: Options,
        journal: Journal,
        watch: Watch,
    ) -> None:
        self.source, self.plan, self.options, self.journal, self.watch = source, plan, options, journal, watch
        self.shards, self.todo, self.folder = shards, todo, partial / "build"
        self.handles: dict[str, int] = {}
        self.total = sum(p.nbytes for p in todo)
        self.done = self.done_here = self.resumed = 0
        self.errors: dict[str, BlockErrors] = {}
        self.hasher: FollowingHasher | None = None
        self._unflushed: list[Finished] = []
        self._touched: dict[str, int] = {}
        self._seen = {f: _stat(source, f) for f in source.files}

    # --- the weights ---

    def make(self, workers: int, *, known: bool) -> None:
        """Fill the shards: take over what the journal proves, make the rest."""
        disk.make_folder(self.folder)
        places: dict[str, tuple[int, Path, int]] = {}
        for shard in self.shards:
            path = self.folder / shard.name
            handle = self.handles[shard.name] = disk.open_to_write(path, shard.nbytes)
            disk.write_at(handle, memoryview(shard.header), 0, path)
            places |= {p.array.name: (handle, path, p.start) for p in shard.arrays}
        self._places = places
        if self.options.hash:
            self.hasher = FollowingHasher(self.shards, self.handles)
            self.hasher.start()
        kept = self._take_over() if known else {}
        settings = Settings(self.options.audit, self.options.allow_nonfinite, self.options.device)
        pool = Workers(workers, self.source.read_into, Target(places), settings)
        made = pool.run(p for p in self.todo if (p.job.name, p.start) not in kept)
        try:
            for piece in self.todo:
                finished = kept.get((piece.job.name, piece.start))
                if finished is None:
                    _, finished = next(made)
                    self._record(piece, finished)
                self._account(piece, finished)
        finally:
            made.close()
        self._flush()

    def _take_over(self) -> dict[tuple[str, int], Finished]:
        """The journaled pieces whose bytes on the disk are what the journal says."""
        kept = {}
        for piece in self.todo:
            finished = self.journal.finished.get((piece.job.name, piece.start))
            if finished is not None and finished.checksums == self._checksums(piece):
                kept[piece.job.name, piece.start] = finished
                self.resumed += piece.nbytes
        return kept

    def _checksums(self, piece: Piece) -> tuple[str, ...]:
        sums = []
        for part in piece.job.parts:
            handle, _, start = self._places[part.name]
            row = piece.job.row_bytes(part)
            one, at, end = xxhash.xxh3_64(), start + piece.start * row, start + (piece.start + piece.rows) * row
            while at < end:
                data = os.pread(handle, min(end - at, 4 << 20), at)
                if not data:
                    break
                one.update(data)
                at += len(data)
            sums.append(one.hexdigest())
        return tuple(sums)

    def _record(self, piece: Piece, finished: Finished) -> None:
        """Note a piece that this run made; flush and journal when enough has come together."""
        self.done_here += piece.nbytes
        self._unflushed.append(finished)
        for part in piece.job.parts:
            handle, path, _ = self._places[part.name]
            self._touched[str(path)] = handle
        if self.done_here - self._flushed_at >= FLUSH:
            self._flush()

    _flushed_at = 0

    def _flush(self) -> None:
        for path, handle in self._touched.items():
            disk.flush(handle, Path(path))
        if self._unflushed:
            self.journal.add(self._unflushed)
        self._unflushed, self._touched, self._flushed_at = [], {}, self.done_here

    def _account(self, piece: Piece, finished: Finished) -> None:
        """Count a finished piece, in order: progress, error sums, what may be hashed."""
        self.done += piece.nbytes
        path = piece.job.name.removesuffix(".weight")
        if finished.errors is not None:
            sums = BlockErrors(**finished.errors)
            before = self.errors.get(path)
            self.errors[path] = sums if before is None else before.merge(sums, piece.start)
        if self.hasher is not None:
            for part in piece.job.parts:
                self.hasher.ready(part.name, (piece.start + piece.rows) * piece.job.row_bytes(part))
        self.watch(Progress(self.done, self.total, path))

    # --- the rest ---

    def finish(self, began: float) -> None:
        """Write everything beside the weights, the manifest last, and flush it all."""
        self._check_source()
        files: dict[str, tuple[int, str | None]] = {}
        if self.hasher is not None:
            self.hasher.finish()
        for shard in self.shards:
            files[shard.name] = (shard.nbytes, self.hasher.files[shard.name] if self.hasher else None)
        for name, data in self._side_files():
            disk.write_file(self.folder / name, data)
            files[name] = (len(data), file_sha256(self.folder / name) if self.options.hash else None)
        seconds = time.monotonic() - began
        run = {"seconds": round(seconds, 3), "bytes_per_second": round(self.done_here / max(seconds, 1e-9)),
               "resumed_bytes": self.resumed, "jobs": self.options.jobs}  # fmt: skip
        manifest = make_manifest(
            self.plan,
            self.source,
            self.options.that_change_bytes(),
            self.shards,
            self.hasher.arrays if self.hasher else {},
            files,
            run,
        )
        disk.write_file(self.folder / MANIFEST, manifest_text(manifest))
        disk.flush_folder(self.folder)

    def _side_files(self) -> Iterator[tuple[str, bytes]]:
        plan = self.plan
        yield "config.json", config_text(self.source.config, plan)
        yield "model.safetensors.index.json", index(self.shards, plan.totals["parameters"])
        assert self.source.folder is not None
        for path in side_files(self.source.folder, trust_remote_code=self.options.trust_remote_code):
            yield path.name, path.read_bytes()
        recipe = {"name": plan.recipe.name, "sha256": plan.recipe.sha256}
        record = make_record(
            entries_of(plan, self.errors), source=plan.source, recipe=recipe, notes=(*plan.notes, *plan.warnings)
        )
        yield "audit.json", json.dumps(record, indent=1).encode()
        yield "AUDIT.md", markdown(record).encode()

    def _check_source(self) -> None:
        for file, seen in self._seen.items():
            if _stat(self.source, file) != seen:
                raise SourceError(f"{file}: changed while it was read; nothing was published, start again with --fresh")

    def close(self) -> None:
        """Stop the hasher and close every file."""
        if self.hasher is not None and self.hasher.is_alive():
            self.hasher.stop()
        for handle in self.handles.values():
            os.close(handle)
        self.journal.close()
        self.source.close()


def _stat(source: Checkpoint, file: str) -> tuple[int, int]:
    assert source.folder is not None
    try:
        found = (source.folder / file).stat()
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror})") from None
    return found.st_size, found.st_mtime_ns


def _signature(source: Checkpoint, plan: Plan, options: Options) -> dict[str, Any]:
    """Everything that changes a byte of the build, and so forbids continuing another's work."""
    return {
        "source": {
            "revision": source.revision,
            "files": {f: dict(zip(("bytes", "mtime_ns"), _stat(source, f), strict=True)) for f in sorted(source.files)},
            "config": xxhash.xxh3_64_hexdigest(json.dumps(source.config, sort_keys=True).encode()),
        },
        "recipe": {"name": str(plan.recipe), "sha256": plan.recipe.sha256},
        "options": options.that_change_bytes(),
        "versions": describe_versions(),
    }


def _as_json(value: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(value))


def _check_room(out: Path, partial: Path, total: int) -> None:
    """Refuse before anything is written where OUT cannot be made or the disk is too small."""
    parent = out.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: {parent} cannot be written to; choose another OUT")
    held = sum(p.stat().st_blocks * 512 for p in partial.rglob("*") if p.is_file()) if partial.exists() else 0
    free = disk.free_bytes(parent)
    if total + SLACK - held > free:
        raise OutputError(
            f"{out}: the build takes {total:,} bytes and {free + held:,} are free there; make room or choose another disk"
        )


def _worker_count(todo: Sequence[Piece], options: Options) -> int:
    """As many workers as asked, fewer where `max_memory` allows no more. Raises UsageError below one."""
    if options.jobs < 1:
        raise UsageError(f"--jobs: at least 1 expected, {options.jobs} given")
    if options.max_memory is None:
        return options.jobs
    cost = max((_block_cost(p) for p in todo), default=0)
    fit = (options.max_memory - BASE_MEMORY) // max(cost, 1)
    if fit < 1:
        raise UsageError(
            f"--max-memory: at least {BASE_MEMORY + cost:,} bytes are needed for one worker on this model,"
            f" {options.max_memory:,} given"
        )
    return min(options.jobs, fit)


def _block_cost(piece: Piece) -> int:
    """Bytes that a worker may hold at once for a piece: source rows, their cast, the packed result, a read."""
    job: Job = piece.job
    rows = max(n for _, n in piece.blocks)
    row = job.columns * job.view.itemsize
    return rows * (2 * row + sum(job.row_bytes(p) for p in job.parts)) + SPAN_COST
