"""Writing the build that a plan describes, in bounded memory, so that a crash costs little.

All that can be refused is refused before anything is written. Then shards are filled in ``OUT.partial/build`` (see
`filling`), the files beside them are written, the manifest last, and when all of it is on the disk one rename makes it
OUT; nothing with that name exists before. A rerun of the same command takes up where the last one ended, wherever
that was. Memory is threads × block, whatever the model. Several plans of one source are written from one reading.

What numbers become is the encoder's (see `kernels.encoder`): by default rounding, byte for byte as mlx-lm rounds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ...disk import files as disk
from ...disk.journal import Journal
from ...errors import MlxquantError, NonFiniteError, OutputError, SourceError
from ...kernels import ColumnWeights, Encoder, PreparedEncoder, Rounding
from ...layout.layout import Layout
from ...plan.plan import Plan
from ...source.checkpoint import Checkpoint
from ...words.progress import Watch, unwatched
from ..manifest import MANIFEST, is_build_of, make_manifest, manifest_text
from ..methods import encoder_of
from .filling import Filling, fill
from .hashing import sha256
from .making import Maker, Target
from .opening import Opening, timed
from .partial import Partial
from .work import ConvertOptions as ConvertOptions
from .work import Work, check_outs, thread_count


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
    columns: ColumnWeights | None = None,
    opening: Callable[[Opening], None] = lambda _: None,
) -> Converted:
    """Write the build to `out`, which appears only when complete.

    `encoder` is what the plan's methods ask for (see `methods`), unless one is given; `columns` are the weights of its
    modules' input columns, for methods that need them.

    `opening` is called once before the work begins, with what it takes. Raises OutputError (OUT exists, no room, held
    by another run), SourceError (a file that changed or ended early), NonFiniteError. What is finished stays in
    ``OUT.partial`` for the next run of the same command.
    """
    return convert_together(
        source, layout, {out: plan}, options, watch, encoder=encoder, columns=columns, opening=opening
    )[0]


def convert_together(
    source: Checkpoint,
    layout: Layout,
    plans: Mapping[Path, Plan],
    options: ConvertOptions,
    watch: Watch = unwatched,
    *,
    encoder: Encoder | None = None,
    encoders: Mapping[Path, Encoder] | None = None,
    columns: ColumnWeights | None = None,
    opening: Callable[[Opening], None] = lambda _: None,
) -> list[Converted]:
    """Write one build for each plan of `layout`, all from one reading of the source: `plans` by their OUT.

    `encoders` are those of plans that need one of their own, by OUT; `encoder` and `columns` are as of `convert`.

    Each build is, byte for byte, what `convert` writes for its plan alone, and each OUT appears when all are complete.
    Of several, one that is there already and is that very build is taken as it is. Raises as `convert`.
    """
    began = time.monotonic()
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights to convert; give the checkpoint's folder")
    rounding = Rounding(options.allow_nonfinite, options.device)
    chosen = {
        out: (encoders or {}).get(out)
        or encoder
        or encoder_of(plan, rounding, columns, allow_nonfinite=options.allow_nonfinite)
        for out, plan in plans.items()
    }
    runs = [_Run(Work(source, layout, plan, options, chosen[out]), out, began) for out, plan in plans.items()]
    reuse = options.reuse or len(runs) > 1
    results = {run.out: run.result(run.work.nbytes) for run in runs if reuse and run.is_there()}
    todo = [run for run in runs if run.out not in results]
    if not todo:
        source.close()
        return list(results.values())
    threads = thread_count([run.work.todo for run in todo], options)
    takes = check_outs([(run.work, run.partial) for run in todo])
    with ExitStack() as claims:
        _claim(todo, claims)
        try:
            results |= {run.out: run.result(run.work.nbytes) for run in todo if run.was_published()}
        except OutputError as error:
            _discard(todo, error)
            raise
        todo = [run for run in todo if run.out not in results]
        if todo:
            _build(todo, threads, takes, opening, watch)
        for run in todo:
            results[run.out] = run.publish()
    return [results[out] for out in plans]


class _Run:
    """One build of a conversion that began at `began`: what is to be made, where, and the files open for it."""

    def __init__(self, work: Work, out: Path, began: float) -> None:
        self.work, self.out, self.began = work, out, began
        prepared = work.encoder.files() if isinstance(work.encoder, PreparedEncoder) else ()
        self.partial = Partial(out, work.names, work.source.files if work.hub is not None else (), prepared)
        self.journal: Journal | None = None
        self.filling: Filling | None = None

    def result(self, resumed: int) -> Converted:
        """The finished build, of which `resumed` bytes were there before."""
        return Converted(self.out, self.work.nbytes, time.monotonic() - self.began, resumed)

    def is_there(self) -> bool:
        """Whether OUT is this very build, and nothing unfinished lies beside it."""
        return not self.partial.folder.exists() and is_build_of(self.out, self.work.origin)

    def was_published(self) -> bool:
        """Whether a run was killed between the rename to OUT and its end, which is made up for here."""
        if not os.path.lexists(self.out):
            return False
        if not is_build_of(self.out, self.work.origin):
            raise OutputError(f"{self.out}: exists already; choose another OUT, or remove it first")
        self.partial.clear()
        return True

    def open(self) -> None:
        """Open journal and shards in OUT.partial."""
        work, options = self.work, self.work.options
        self.journal = _open_journal(work, self.partial)

        def maker(target: Target) -> Maker:
            return Maker(work.source.read_into, target, work.encoder, options.audit, options.allow_nonfinite)

        self.filling = Filling(
            work.shards, self.partial.build, work.source, self.journal, work.todo, maker, options.sizes
        )
        self.filling.open(hash_files=options.hash)

    def is_begun(self, piece: int) -> bool:
        """Whether an earlier run says that it finished this piece."""
        return self.journal is not None and self.work.todo[piece].key in self.journal.finished

    def prepare(self, watch: Watch) -> None:
        """Let the encoder do what it does before the first row."""
        if isinstance(self.work.encoder, PreparedEncoder):
            self.work.encoder.prepare(self.partial.prepared, watch)

    def publish(self) -> Converted:
        """Give the build its name, and take the folder of unfinished work away."""
        self.partial.publish()
        self.partial.clear()
        return self.result(self.filling.resumed if self.filling is not None else 0)

    def discard_worthless(self, error: BaseException) -> None:
        """Leave nothing behind where nothing is worth keeping."""
        if isinstance(error, NonFiniteError) and self.filling is not None:
            worthless = self.filling.made + self.filling.resumed <= self.work.options.sizes.worth_keeping
        else:
            unbegun = self.journal.empty if self.journal is not None else not self.partial.journal.exists()
            worthless = unbegun and not self.partial.holds_source() and not self.partial.holds_prepared()
        if worthless:
            with suppress(OutputError):
                self.partial.discard()

    def close(self) -> None:
        """Close every file."""
        if self.filling is not None:
            self.filling.close()
        if self.journal is not None:
            self.journal.close()


def _build(
    runs: Sequence[_Run], threads: int, takes: Opening, opening: Callable[[Opening], None], watch: Watch
) -> None:
    """Make all builds in their OUT.partial, from one reading."""
    source, hub = runs[0].work.source, runs[0].work.hub
    try:
        for run in runs:
            run.open()
            run.prepare(watch)
        fillings = [run.filling for run in runs if run.filling is not None]
        opening(timed(takes, fillings, threads, runs[0].partial))
        if hub is not None:
            pieces = range(len(runs[0].work.todo))
            hub.start(runs[0].partial.source, {i for i in pieces if all(run.is_begun(i) for run in runs)})
        fill(fillings, threads, watch, hub.release if hub is not None else lambda _: None)
        for run in runs:
            _finish(run)
    except (MlxquantError, KeyboardInterrupt) as error:
        source.close()  # nothing comes any more
        _discard(runs, error)
        raise
    finally:
        for run in runs:
            run.close()
        source.close()


def _claim(runs: Sequence[_Run], claims: ExitStack) -> None:
    """Hold every OUT against other runs until `claims` ends. Raises OutputError; then nothing new stays behind."""
    for number, run in enumerate(runs):
        try:
            claims.enter_context(run.partial.claimed())
        except OutputError as error:
            _discard(runs[:number], error)
            raise


def _discard(runs: Sequence[_Run], error: BaseException) -> None:
    """Leave nothing worthless behind; the last one first, as folders above were made for the first."""
    for run in reversed(runs):
        run.discard_worthless(error)


def _open_journal(work: Work, partial: Partial) -> Journal:
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


def _finish(run: _Run) -> None:
    """Write everything beside the weights, the manifest last, and flush it all."""
    work, filling, folder = run.work, run.filling, run.partial.build
    assert filling is not None
    hashes: Mapping[str, str] = {}
    if filling.hasher is not None:
        filling.hasher.finish()
        hashes = filling.hasher.files
    filling.check_source()
    files = {s.name: (s.nbytes, hashes.get(s.name)) for s in work.shards}
    for name, data in work.files(filling.errors):
        if "/" in name:
            disk.make_folder((folder / name).parent)
        disk.write_file(folder / name, data)
        files[name] = (len(data), sha256(data))
    seconds = time.monotonic() - run.began
    figures = {
        "seconds": round(seconds, 3),
        "bytes_per_second": round(filling.made / max(seconds, 1e-9)),
        "resumed_bytes": filling.resumed,
        "jobs": work.options.threads,
    }
    arrays = filling.hasher.arrays if filling.hasher is not None else {}
    manifest = make_manifest(work.origin, work.shards, arrays, files, figures)
    disk.write_file(folder / MANIFEST, manifest_text(manifest))
