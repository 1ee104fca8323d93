"""Unfinished work that lies in a folder: what it is, how far it got, how large and how old; and throwing it away.

Known are OUT.partial of `convert`, OUT.work of `build`, the work folders of `compare`, `calibrate`, `allocate` and
`sweep`, and FILE.partial of `eval`: by their own markers (see `disk.work_folder`, `disk.journal`), never by a name.
What shards of the Hub a conversion has fetched lies in its OUT.partial. No link is followed, and nothing is looked into
further than `DEPTH` folders down. It stands in `pipeline` because that package comes after all that leave such work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..allocate.folder import AllocateFolder
from ..builds.write import partial
from ..disk import files as disk
from ..disk.journal import discard_run, read_run
from ..disk.work_folder import LOCK, is_held, marked_command
from ..errors import OutputError, UsageError
from ..stream import state
from ..sweep.folder import SweepFolder
from ..words.text import nearest, printable
from . import folder as build_folder

# Folders below the one that is named: models/PUBLISHER/NAME.partial, seen from LM Studio's home
DEPTH = 3
_ENDING = ".partial"
_FOLDERS: dict[str, tuple[Callable[[Path], tuple[str, str]], Callable[[Path], object]]] = {
    "convert": (partial.progress_of, partial.discard),
    "compare": (state.progress_of, state.discard),
    "calibrate": (state.progress_of, lambda path: state.discard(path, state.CALIBRATE)),
    "allocate": (lambda path: AllocateFolder(path).progress(), lambda path: AllocateFolder(path).discard()),
    "build": (build_folder.progress_of, build_folder.discard),
    "sweep": (lambda path: SweepFolder(path).progress(), lambda path: SweepFolder(path).discard()),
}


@dataclass(frozen=True, slots=True)
class Unfinished:
    """One piece of unfinished work: `name` is its path below the folder that was looked through.

    `what` and `progress` are for a reader, `nbytes` what it takes of the disk, `age_s` the seconds since it was last
    written to; `held` says that a process is at work there right now.
    """

    name: str
    path: Path
    command: str
    what: str
    progress: str
    nbytes: int
    age_s: float
    held: bool


def find_unfinished(folder: Path) -> list[Unfinished]:
    """The unfinished work in a folder, itself included. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: a folder expected, in which builds and work folders lie")
    return list(_search(folder, "", 0))


def discard_unfinished(folder: Path, names: list[str]) -> Iterator[Unfinished]:
    """Throw away the work that `names` name, one after another; gives each when it is gone.

    Raises UsageError, before anything is deleted, for a name that is none; OutputError where a process is at work
    there, or where something lies in it that mlxquant did not leave there.
    """
    known = {work.name: work for work in find_unfinished(folder)}
    paths = {str(work.path.absolute()): work.name for work in known.values()}
    wanted = [os.path.normpath(name) for name in names]
    # as a shell completes it: from the folder where the command is typed
    wanted = [name if name in known else paths.get(str(Path(name).absolute()), name) for name in wanted]
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"{printable(name)}: no unfinished work of mlxquant in {folder}{nearest(name, known)};"
                f" mlxquant clean {folder} lists it"
            )
    for name in dict.fromkeys(wanted):
        work = known[name]
        if work.held:
            raise OutputError(f"{work.path}: mlxquant {work.command} works there right now; wait for it")
        if work.command == "eval":
            discard_run(work.path)
        else:
            _FOLDERS[work.command][1](work.path)
        yield work


def _search(folder: Path, above: str, depth: int) -> Iterator[Unfinished]:
    command = marked_command(folder)
    if command in _FOLDERS:
        what, progress = _FOLDERS[command][0](folder)
        nbytes, changed = _size(folder)
        age, held = time.time() - changed, is_held(folder / LOCK)
        yield Unfinished(above or ".", folder, command, printable(what), printable(progress), nbytes, age, held)
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name, path = f"{above}/{entry.name}" if above else entry.name, folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if depth < DEPTH:
                yield from _search(path, name, depth + 1)
        elif entry.name.endswith(_ENDING) and disk.is_own(path):
            yield from _evaluation(path, name)


def _evaluation(path: Path, name: str) -> Iterator[Unfinished]:
    """The journal of an evaluation, if the file is one."""
    with suppress(OutputError, OSError, ValueError, RecursionError):
        signature, *trials = read_run(path)
        suites = signature.get("suites")
        what = f"an evaluation of {', '.join(map(str, suites))}" if isinstance(suites, list) else "an evaluation"
        status = path.lstat()
        yield Unfinished(
            name, path, "eval", printable(what), f"{len(trials):,} trials finished", status.st_blocks * 512,
            time.time() - status.st_mtime, is_held(path),
        )  # fmt: skip


def _size(folder: Path) -> tuple[int, float]:
    """Bytes that a folder takes of the disk, and when something in it was last written to."""
    nbytes, changed = 0, folder.lstat().st_mtime
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = (Path(above) / name).lstat()
                nbytes, changed = nbytes + status.st_blocks * 512, max(changed, status.st_mtime)
    return nbytes, changed
