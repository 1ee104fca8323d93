"""A folder for unfinished work: who may use it, what in it is mlxquant's, and what may be deleted there.

    FOLDER/lock     the marker: tool, command, schema, and every file that the work may make in FOLDER
                    held (flock) while a run is at work; the lock is the kernel's, so a crash leaves none behind

The marker is the first thing that a run puts into a folder, whole, and the last that it takes away. Only regular files
that the marker names are ever deleted or written to; anything else there (a link, a stranger's file, a file with a
second name elsewhere) is a reason to refuse the folder before anything is done. A marker may come from a stranger too,
so it vouches only for names that its command makes (`makes`). What versions without markers left is taken over where
its command recognises it (`earlier`).

Conversions are kept so (`builds.write`), passes (`stream.state`) and sweeps (`sweep.folder`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..errors import OutputError, UsageError
from . import files as disk

LOCK = "lock"
SCHEMA = "mlxquant.work/1"
# What macOS's Finder leaves in any folder that it shows.
LITTER = ".DS_Store"
_BEGINNING = f'{{"schema": "{SCHEMA}"'.encode()

Earlier = Callable[[Path], Collection[str] | None]


@dataclass(frozen=True)
class _Marker:
    """What a folder's lock says: whose it is, whether the folder was made for it, the files that may be in it."""

    command: str
    made_folder: bool
    names: frozenset[str]

    def text(self) -> bytes:
        record = {"schema": SCHEMA, "tool": "mlxquant", "version": __version__, "command": self.command,
                  "made_folder": self.made_folder, "names": sorted(self.names)}  # fmt: skip
        return (json.dumps(record) + "\n").encode()


class WorkFolder:
    """The unfinished work of one `command` in one folder. Nothing is written before `claimed`.

    `names` are the files that this run may make, relative to the folder; `makes` matches those that any run of the
    command may have made, and a marker's other words count for nothing. `earlier` gives those of a folder that was
    begun before there were markers, None where it is not certain to be one. `strangers` lets other files stay beside
    ours in a marked folder; else they are refused. `shared` lets several processes of one command hold the folder. A
    folder that was there before stays, empty, unless `named` says that its very name is one that mlxquant gives.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        names: Iterable[str] = (),
        *,
        makes: re.Pattern[str],
        earlier: Earlier = lambda _: None,
        strangers: bool = False,
        shared: bool = False,
        named: bool = False,
        advice: str = "choose another folder",
        busy: str | None = None,
    ) -> None:
        # a person may keep large work on another disk; what mlxquant names itself is no link of anybody's
        self.path = path.resolve() if not named and path.is_symlink() and path.is_dir() else path
        self.command = command
        self.names = frozenset(names)
        self._makes = makes
        self._earlier, self._strangers, self._shared = earlier, strangers, shared
        self._named, self._advice = named, advice
        self._busy = busy or f"{path}: another mlxquant works there right now; wait for it, or {advice}"
        self._handle: int | None = None
        self._marker = _Marker(command, named, frozenset())

    @property
    def lock(self) -> Path:
        """The marker's file."""
        return self.path / LOCK

    def check(self) -> None:
        """Raise OutputError where the folder is not free for this work: changes nothing."""
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_dir():
            raise OutputError(f"{self.path}: a folder for unfinished work expected, a file or link found; move it away")
        self._owned()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder against other runs, making it if need be. Raises OutputError."""
        self.check()
        is_new = not self.path.exists()
        try:
            self._handle = self._hold(is_new)
            marker = self._owned()
            if marker is None:  # begun before there were markers
                marker = _Marker(self.command, self._named, frozenset(self._earlier(self.path) or ()))
                self._mark(marker)
            self._marker = marker
        except BaseException:
            self._release()
            if is_new:
                with suppress(OutputError):
                    disk.remove_empty(self.path)
            raise
        try:
            yield
        finally:
            self._release()

    def own(self, *, anew: bool = False) -> None:
        """Say that the folder now holds this run's work, beside what it held; with `anew`, nothing else."""
        names = self.names if anew else self.names | self._marker.names
        if names != self._marker.names:
            self._mark(_Marker(self.command, self._marker.made_folder, names))

    def remove(self, *tops: str) -> None:
        """Delete files of ours, in the order of `tops`, their first names; all without. Others stay."""
        names = sorted(self._marker.names - {LOCK})
        for top in tops or list(dict.fromkeys(name.partition("/")[0] for name in names)):
            for name in names:
                if name == top or name.startswith(f"{top}/"):
                    self._remove_file(self.path / name)
            for folder in sorted({p for n in names if n.startswith(f"{top}/") for p in _above(n)}, reverse=True):
                if (self.path / folder).is_dir() and not (self.path / folder).is_symlink():
                    self._remove_litter(self.path / folder)
                    disk.remove_empty(self.path / folder)

    def leave(self) -> bool:
        """Take the marker away, and the folder if it was made for this and is empty. Says whether it is gone."""
        if not self.path.is_dir():  # it was left before
            return True
        self._remove_litter(self.path)
        self._remove_file(self.lock)
        return self._marker.made_folder and disk.remove_empty(self.path)  # not if another run has just moved in

    def discard(self, *tops: str) -> bool:
        """Hold the folder, delete what is ours in it, in the order of `tops`, and give it up.

        Says whether it is gone. Raises OutputError, before anything is deleted, where another process holds it or
        where something lies in it that is not ours.
        """
        with self.claimed():
            self.remove(*tops)
            return self.leave()

    def holds(self, name: str) -> bool:
        """Whether a file of ours is there."""
        return name in self._marker.names and (self.path / name).is_file()

    # --- what is ours ---

    def _owned(self) -> _Marker | None:
        """The marker, None where the work is of a version without. Raises OutputError where something is a stranger's.

        An empty folder gives the marker that it would get.
        """
        entries = {entry for entry in _entries(self.path) if not self._is_litter(entry)}
        marker = self._read_marker()
        if marker is not None and marker.command != self.command:
            raise OutputError(f"{self.path}: holds unfinished work of mlxquant {marker.command}; {self._advice}")
        if marker is None and not entries:
            return self._marker
        names = marker.names if marker is not None else self._earlier(self.path)
        known = frozenset() if names is None else frozenset(names) | {LOCK}
        if self._strangers and names is not None:
            entries &= known
        folders = {folder for name in known for folder in _above(name)}
        strange = {e for e in entries if not (_is_ours(self.path / e) if e in known else self._is_folder(e, folders))}
        if strange:
            above = min(strange, key=lambda e: (e.count("/"), e)).rpartition("/")[0]
            beside = {e.rpartition("/")[2] for e in strange if e.rpartition("/")[0] == above}
            raise OutputError(
                f"{self.path / above}: holds {listed_names(beside)}, which mlxquant did not leave there;"
                f" unfinished work goes into that folder: move it away, or {self._advice}"
            )
        return marker

    def _read_marker(self) -> _Marker | None:
        """The marker in the lock, without names that no run of its command makes; None where it is none of ours."""
        marker = _read_marker(self.lock)
        if marker is None:
            return None
        return replace(marker, names=frozenset(n for n in marker.names if n in self.names or self._makes.fullmatch(n)))

    def _is_folder(self, entry: str, folders: Collection[str]) -> bool:
        return entry in folders and not (self.path / entry).is_symlink() and (self.path / entry).is_dir()

    def _is_litter(self, entry: str) -> bool:
        """Whether an entry is what Finder left, or a marker that a crash left unfinished."""
        path = self.path / entry
        above, _, name = entry.rpartition("/")
        marked = not above or f"{above}/{LOCK}" in self.names  # a folder of ours may hold another work folder
        return name == LITTER or (marked and _is_unfinished_marker(path))

    def _remove_litter(self, folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink() and self._is_litter(str(path.relative_to(self.path))):
                disk.remove(path)

    def _remove_file(self, path: Path) -> None:
        if os.path.lexists(path):
            if not _is_ours(path):
                raise OutputError(f"{path}: is not the file that mlxquant left there; move it away")
            disk.remove(path)

    # --- the lock ---

    def _hold(self, is_new: bool) -> int:
        """Open the lock and hold it, making folder and marker where they are missing."""
        while True:
            disk.make_folder(self.path)
            try:
                handle = disk.open_to_write(self.lock, create=False)
            except OutputError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                try:
                    names = self.names | frozenset(self._earlier(self.path) or ())
                    return self._mark(_Marker(self.command, is_new or self._named, names), new=True)
                except OutputError as taken:
                    # another run made the lock, or took the folder away, just now
                    if isinstance(taken.__cause__, FileExistsError | FileNotFoundError):
                        continue
                    raise
            try:
                disk.lock(handle, self.lock, self._busy, shared=self._shared)
            except OutputError:
                os.close(handle)
                raise
            if _is_same(handle, self.lock):
                return handle
            os.close(handle)  # the run that held it took the file away just now

    def _mark(self, marker: _Marker, *, new: bool = False) -> int:
        """Write a marker, whole and held before it has its name; gives its handle, which is now the lock."""
        handle, temporary = disk.open_new(self.path)
        try:
            disk.lock(handle, temporary, self._busy, shared=self._shared)
            disk.write_at(handle, memoryview(marker.text()), 0, temporary)
            disk.flush(handle, temporary)
            if new:
                disk.link_new(temporary, self.lock)
            else:
                disk.rename_over(temporary, self.lock)
            disk.flush(handle, self.lock)
            disk.flush_folder(self.path)
        except BaseException:
            os.close(handle)
            with suppress(OutputError):
                disk.remove(temporary)
            raise
        if not new:
            self._release()
            self._handle = handle
        self._marker = marker
        return handle

    def _release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def marked_command(folder: Path) -> str | None:
    """The command whose unfinished work a folder's marker says that it holds; None for any other folder, or a link."""
    if folder.is_symlink() or not folder.is_dir():
        return None
    marker = _read_marker(folder / LOCK)
    return None if marker is None else marker.command


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock right now; changes nothing."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        disk.lock(handle, lock, "held")
    except OutputError as error:
        return str(error) == "held"
    finally:
        os.close(handle)
    return False


def check_apart(folder: Path, others: Iterable[tuple[str, Path]], what: str = "work folder") -> None:
    """Raise UsageError where something that is read is, holds, or lies in a folder that is written to and emptied."""
    ours = disk.real_path(folder)
    for name, path in others:
        theirs = disk.real_path(path)
        if theirs == ours or theirs.is_relative_to(ours):
            raise UsageError(f"{name} {path}: lies in the {what} {folder}, which mlxquant empties; choose another")
        if ours.is_relative_to(theirs):
            raise UsageError(f"{folder}: the {what} lies in {name} {path}, which is only read; choose another")


def _read_marker(path: Path) -> _Marker | None:
    """The marker in a lock; None where it is none of ours."""
    try:
        if not disk.is_file(path):
            return None
        record = json.loads(disk.read_regular(path))
        if record["schema"] != SCHEMA or record["tool"] != "mlxquant":
            return None
        names = frozenset(name for name in record["names"] if _is_inside(name))
        return _Marker(str(record["command"]), record["made_folder"] is True, names)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_inside(name: object) -> bool:
    """Whether a marker's word can only mean a file within the folder."""
    return isinstance(name, str) and name != "" and all(part not in ("", ".", "..") for part in name.split("/"))


def _is_unfinished_marker(path: Path) -> bool:
    """Whether a file is a marker under its temporary name, or what a crash left of one."""
    try:
        if not disk.TEMPORARY.fullmatch(path.name) or not disk.is_file(path):
            return False
        beginning = disk.read_regular(path)[: len(_BEGINNING)]
    except OSError:
        return False
    return _BEGINNING.startswith(beginning.rstrip(b"\0"))


def _is_ours(path: Path) -> bool:
    """Whether a path may be one of our files; a lock is never written to, so a second name of it does no harm."""
    return disk.is_file(path) if path.name == LOCK else disk.is_own(path)


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _entries(folder: Path, above: str = "") -> Iterator[str]:
    """Everything in a folder, relative to it: files, links, and folders with what they hold."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be read ({error.strerror}); choose another folder") from None
    for entry in entries:
        yield above + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(folder / entry.name, f"{above}{entry.name}/")


def _above(name: str) -> list[str]:
    """The folders of a relative name: a/b/c -> a, a/b."""
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def listed_names(names: Set[str], limit: int = 3) -> str:
    """The first few names, and how many more there are."""
    shown = sorted(names)
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
