"""OUT.partial: where a build lies until it is complete.

    OUT.partial/build/          the files of the build, published by renaming this folder to OUT
    OUT.partial/journal.jsonl   what is finished (see `journal`)
    OUT.partial/source/         shards that are still needed or on their way (see `source.hub.reader`)
    OUT.partial/prepared/       what an encoder made before the first row, and what its own pass goes on from
    OUT.partial/lock            says that the folder is mlxquant's and which files are; held while a run is at work

Whatever else lies there is somebody's, and is never taken over, published or deleted (see `work_folder`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...disk import files as disk
from ...disk.journal import read_entries
from ...disk.work_folder import LITTER, LOCK, WorkFolder, listed_names
from ...errors import OutputError, UsageError
from ...source.links import TEMPLATES
from ...words.units import show_bytes

BUILD, JOURNAL, SOURCE, PREPARED = "build", "journal.jsonl", "source", "prepared"
COMMAND = "convert"
# What the signature of a conversion has, and files of a build whose names do not come from its source
_SIGNATURE = {"source", "recipe", "options", "versions", "architecture"}
_OWN_FILES = re.compile(
    r"(model(-\d{5}-of-\d{5})?|mtp)\.safetensors|model\.safetensors\.index\.json|config\.json|audit\.json|AUDIT\.md"
    r"|mlxquant\.json"
)
# What any build may hold: those, and what tokenizers and processors are kept in
BUILD_FILE = re.compile(
    rf"{_OWN_FILES.pattern}|[\w.-]+\.(json|jinja|model|tiktoken)|merges\.txt|vocab\.txt|{TEMPLATES}/[\w.-]+\.jinja"
)
# What a conversion leaves in OUT.partial, whatever its source
_MAKES = re.compile(
    rf"{re.escape(JOURNAL)}|{BUILD}/({BUILD_FILE.pattern})|({PREPARED}/pass/)?{SOURCE}/[^/]+\.safetensors(\.part)?"
    rf"|{PREPARED}/encoded/[\w-]+\.safetensors(\.new)?|{PREPARED}/pass/(lock|state\.npz(\.new)?|hidden-\d\.bin)"
)


def work_folder(folder: Path, names: Iterable[str] = (), *, busy: str | None = None) -> WorkFolder:
    """The folder of one unfinished conversion, in which a run may make the files `names`."""
    return WorkFolder(
        folder,
        COMMAND,
        names,
        makes=_MAKES,
        earlier=_begun_before_markers,
        named=True,
        advice="choose another OUT",
        busy=busy,
    )


def discard(folder: Path) -> bool:
    """Throw an unfinished conversion away, whatever its OUT. Raises OutputError as `WorkFolder.discard`."""
    return work_folder(folder).discard(PREPARED, SOURCE, BUILD, JOURNAL)


def progress_of(folder: Path) -> tuple[str, str]:
    """What an unfinished conversion is, and how far it is, as a person reads it; it may be a stranger's file."""
    signature, count = {}, 0
    with suppress(OutputError, ValueError, RecursionError):
        entries, _ = read_entries(folder / JOURNAL)
        signature = entries[0] if entries and isinstance(entries[0], dict) else {}
        count = len({(str(e.get("job")), str(e.get("start"))) for e in entries[1:] if isinstance(e, dict)})
    source, recipe = signature.get("source"), signature.get("recipe")
    what = source.get("name") if isinstance(source, dict) else None
    how = recipe.get("name") if isinstance(recipe, dict) else None
    written, total = _shard_bytes(folder / BUILD)
    far = f"{show_bytes(written)} of {show_bytes(total)} written, {count:,} pieces finished" if total else "nothing yet"
    return f"{what or 'an unknown source'} with {how or 'an unknown recipe'}", far


def _shard_bytes(build: Path) -> tuple[int, int]:
    """Bytes of unfinished shards that the disk holds, and how long they will be."""
    if build.is_symlink() or not build.is_dir():
        return 0, 0
    states = [path.lstat() for path in build.iterdir() if path.suffix == ".safetensors" and disk.is_file(path)]
    return sum(min(s.st_blocks * 512, s.st_size) for s in states), sum(s.st_size for s in states)


class Partial:
    """The work in progress towards `out`. Nothing is written before `claimed`.

    `files` are those of the build, `shards` those of the source that may be downloaded, `prepared` those that an
    encoder leaves before the first row.
    """

    def __init__(
        self, out: Path, files: Collection[str] = (), shards: Collection[str] = (), prepared: Collection[str] = ()
    ) -> None:
        if out.name in ("", "..") and not os.path.lexists(out):
            raise UsageError(f"{out}: a name for the build's folder expected, such as ./build")
        self.out = out
        self.folder = out.parent / f"{out.name}.partial"
        self.build = self.folder / BUILD
        self.journal = self.folder / JOURNAL
        self.source = self.folder / SOURCE
        self.prepared = self.folder / PREPARED
        self._made: list[Path] = []
        self._work = work_folder(
            self.folder,
            [*_names(files, shards), *_prepared_names(prepared, shards)],
            busy=f"{out}: another mlxquant is writing it right now; wait for it, or choose another OUT",
        )

    def check(self) -> None:
        """Raise OutputError where OUT.partial is not what a run of ours left, or cannot become OUT by a rename."""
        self._work.check()
        if self.folder.exists() and self.folder.stat().st_dev != self.out.parent.stat().st_dev:
            raise OutputError(f"{self.folder}: lies on another disk than {self.out.parent}, so it cannot become OUT")

    def check_files(self, expected: Set[str]) -> None:
        """Raise OutputError where the unfinished build holds what this build has no place for."""
        names = set(disk.names_below(self.build)) if self.build.is_dir() else set()
        if strange := names - expected - {LITTER}:
            raise OutputError(
                f"{self.build}: holds {listed_names(strange)}, which is no part of this build; move it away"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold OUT against a second run, making OUT.partial if need be.

        Raises OutputError where another process holds it.
        """
        self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        begun = False
        try:
            with self._work.claimed():
                for folder in self._made:
                    disk.flush_folder(folder.parent)
                begun = True
                yield
        except OutputError:
            if not begun:
                with suppress(OutputError):
                    self._discard_empty()
            raise

    def own(self, *, anew: bool = False) -> None:
        """Say in the marker that this build's files are ours; with `anew`, that no others are any more."""
        self._work.own(anew=anew)

    def empty(self) -> None:
        """Throw away what earlier runs finished, and begin anew."""
        self._work.remove(PREPARED, SOURCE, BUILD, JOURNAL)
        self._work.own(anew=True)

    def publish(self) -> None:
        """Give the finished build its name, and wait until the disk knows it."""
        if (self.build / LITTER).exists():
            disk.remove(self.build / LITTER)
        if (self.build / TEMPLATES).is_dir():
            disk.flush_folder(self.build / TEMPLATES)
        disk.flush_folder(self.build)
        if os.path.lexists(self.out):
            raise OutputError(
                f"{self.out}: another process made it meanwhile; the finished build is kept in {self.folder}:"
                " move that OUT away and run the same command again"
            )
        disk.rename(self.build, self.out)
        disk.flush_folder(self.out.parent)

    def clear(self) -> None:
        """Take the folder away, in an order that a crash may cut anywhere: the journal outlives the build."""
        self._work.remove(PREPARED, SOURCE, BUILD, JOURNAL)
        self._work.leave()

    def discard(self) -> None:
        """Leave nothing behind: neither the folder nor those above it that were made for it."""
        self.clear()
        self._discard_empty()

    def held_bytes(self) -> int:
        """Bytes of the disk that the unfinished work takes already."""
        if not self.folder.is_dir():
            return 0
        return sum(p.stat().st_blocks * 512 for p in self.folder.rglob("*") if p.is_file())

    def holds_source(self) -> bool:
        """Whether a byte of the source was downloaded, which is worth keeping."""
        return self.source.is_dir() and any(p.stat().st_size for p in self.source.iterdir())

    def holds_prepared(self) -> bool:
        """Whether an encoder has finished a part of what it does before the first row, which is worth keeping."""
        return self.prepared.is_dir() and any(p.suffix in (".safetensors", ".npz") for p in self.prepared.rglob("*"))

    def begun_at(self, name: str) -> str | None:
        """The commit of the repository `name` that the unfinished work here was begun at, if it was."""
        source = _signature(self.journal).get("source", {})
        return source.get("revision") if source.get("name") == name else None

    def _discard_empty(self) -> None:
        """Take away the folders that were made for this, as far as they are empty."""
        for folder in self._made:
            if folder.exists() and not disk.remove_empty(folder):
                break


def _names(files: Collection[str], shards: Collection[str]) -> Iterator[str]:
    yield JOURNAL
    yield from (f"{BUILD}/{name}" for name in files)
    yield from (f"{SOURCE}/{name}{ending}" for name in shards for ending in ("", ".part"))


def _prepared_names(files: Collection[str], shards: Collection[str]) -> Iterator[str]:
    if files:
        yield from (f"{PREPARED}/{name}" for name in files)
        made = ("lock", "state.npz", "state.npz.new", *(f"hidden-{i}.bin" for i in range(3)))
        yield from (f"{PREPARED}/pass/{name}" for name in made)
        yield from (f"{PREPARED}/pass/{SOURCE}/{name}{ending}" for name in shards for ending in ("", ".part"))


def _begun_before_markers(folder: Path) -> set[str] | None:
    """The files of a conversion that a version without markers began: its journal says so, line by line checksummed."""
    path = folder / JOURNAL
    if path.is_symlink() or not path.is_file():
        return None
    signature = _signature(path)
    if not signature.keys() >= _SIGNATURE or not isinstance(signature["source"].get("files"), dict):
        return None
    source = signature["source"]
    build = folder / BUILD
    present = [p.name for p in build.iterdir()] if build.is_dir() and not build.is_symlink() else []
    return {LOCK, *_names([n for n in present if _OWN_FILES.fullmatch(n) or n in source["copied"]], source["files"])}


def _signature(journal: Path) -> dict[str, Any]:
    """The first line of a journal, if it is whole; empty where there is none."""
    entries, _ = read_entries(journal)
    return entries[0] if entries and entries[0] is not None else {}
