"""A source on the Hub, read while it comes: shards on the disk only as long as pieces of the work need them.

Shards come in the order in which pieces need them, two at a time and at most `AHEAD` that nobody has read yet; a read
of one that is not there waits for it. When the last piece that needs a shard is made, the shard is deleted. Shards
that huggingface_hub's cache has are read there and stay; with `keep` all of them go there.

    needs of pieces:  {a} {a} {a b} {b} {c} …      on the disk:  a b(ahead) c(ahead), then b c d, then c d e, …

`Arriving` does the same for a pass that goes through the layers once, so that a model which no disk here holds can be
judged. Without a work folder its shards go to huggingface_hub's usual cache, whole and to stay. A source that is a
folder here needs none of this.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path

from ...disk import files as disk
from ...errors import OutputError
from ...words.interrupts import asked_to_end
from ...words.progress import waiting
from ...words.units import show_bytes, show_size
from ..checkpoint import LARGEST_SMALL, Reader, read_at
from .client import Stopped
from .errors import hub_constants
from .repository import Repository

CONNECTIONS = 2
AHEAD = 2

Needs = Sequence[frozenset[str]]  # names of the files that each piece of the work reads, in order


class HubReader:
    """Reads the files of one commit on the Hub: `prepare`, `start`, then reads from any thread.

    Reads that come without the two bring whole shards into the usual cache, as with `keep`.
    """

    def __init__(self, repository: Repository, *, keep: bool = False, left_out: Collection[str] = ()) -> None:
        self.repository, self.keep, self._left_out = repository, keep, left_out
        self._needs: Needs = ()
        self._left: Counter[str] = Counter()
        self._order: Sequence[str] = ()
        self._folder: Path | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._coming: dict[str, Future[Path]] = {}
        self._read: set[str] = set()
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    # --- before anything is written ---

    def listing(self) -> list[str]:
        """Names of the files at the repository's top, but for those that are too large to be carried along."""
        return sorted(self.repository.top.keys() - self._left_out)

    def read_whole(self, file: str) -> bytes:
        """Read a small file, by way of the usual cache."""
        return disk.read_regular(self.repository.download(file), LARGEST_SMALL)

    def prepare(self, needs: Needs) -> None:
        """Take note of the files that each piece will read."""
        self._needs = needs
        self._left = Counter(file for files in needs for file in files)

    def check_room(self, out: Path, total: int, held: int) -> int:
        """Bytes needed on OUT's disk for shards. Raises OutputError where the cache's disk is too small for all.

        `total` bytes are needed for the build, `held` of what is needed there already.
        """
        sizes = {f: self.repository.size(f) for f in self._left if not self.repository.cached(f)}
        if not self.keep:
            # and one that workers are done with, but whose pieces are not all accounted for
            return peak_bytes(self._needs, sizes, AHEAD + 1)
        cache, missing = Path(hub_constants().HF_HUB_CACHE), sum(sizes.values())
        same = _device(cache) == _device(out.parent)
        free = disk.free_bytes(cache)
        if missing + (total - held if same else 0) > free:
            raise OutputError(
                f"{cache}: --keep-source downloads {show_size(missing)} there and {show_size(free)} are free"
                f"{f', of which the build takes {show_size(total - held)}' if same else ''};"
                " make room, set HF_HOME to another disk, or leave --keep-source out"
            )
        return 0

    def missing_beside(self, out: Path, files: Iterable[str]) -> int:
        """Bytes of files that the usual cache does not have, where it lies on the disk of `out`; else 0."""
        if _device(Path(hub_constants().HF_HUB_CACHE)) != _device(out.absolute().parent):
            return 0
        return sum(self.repository.size(file) for file in files if not self.repository.cached(file))

    def cached_bytes(self) -> int:
        """Bytes of the files that pieces read which the usual cache has."""
        return sum(self.repository.size(file) for file in self._left if self.repository.cached(file))

    # --- while the work goes on ---

    def start(self, folder: Path, finished: Collection[int] = ()) -> None:
        """Begin to bring files into `folder`; not those that only `finished` pieces need."""
        self._folder = folder
        if not self.keep:
            disk.make_folder(folder)
        open_pieces = (files for i, files in enumerate(self._needs) if i not in finished)
        self._order = list(dict.fromkeys(file for files in open_pieces for file in sorted(files)))
        with self._lock:
            self._go_ahead()

    def read_into(self, file: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `start` of `file`, once that is there."""
        handle = self._handles.get(file)
        if handle is None:
            with self._lock:
                coming = self._ask(file)
                if file not in self._read:
                    self._read.add(file)
                    self._go_ahead()
            handle = self._open(file, self._await(file, coming))
        read_at(handle, file, start, buffer)

    def release(self, piece: int) -> None:
        """Say that a piece is made: what no other one needs goes."""
        with self._lock:
            for file in self._needs[piece]:
                self._left[file] -= 1
                if self._left[file] == 0:
                    self._drop(file)
            if not self._stopped.is_set():
                self._go_ahead()

    def stop(self) -> None:
        """Let reads that wait fail, and downloads end."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, and let go of what reads have opened."""
        self.stop()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        with self._lock:
            for handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def _ask(self, file: str) -> Future[Path]:
        """A file's download, begun if it is not yet. The lock is held."""
        if file not in self._coming:
            if self._stopped.is_set():
                raise Stopped(f"{file}: stopped")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="download")
            self._coming[file] = self._pool.submit(self._bring, file)
        return self._coming[file]

    def _go_ahead(self) -> None:
        """Begin with the next files, as long as few wait to be read. The lock is held."""
        waiting = len(self._coming.keys() - self._read)
        for file in self._order:
            if waiting >= AHEAD:
                return
            if self._left[file] > 0 and file not in self._coming:
                self._ask(file)
                waiting += 1

    def _bring(self, file: str) -> Path:
        if self._stopped.is_set():
            raise Stopped(f"{file}: stopped")
        path = self.repository.from_cache(file, self._stopped)
        if path is None and (self.keep or self._folder is None):
            path = self.repository.keep(file, self._stopped)
        elif path is None:
            assert self._folder is not None
            path = self.repository.fetch(file, self._folder, self._stopped)
        self.repository.check_header(file, path)
        return path

    def _await(self, file: str, coming: Future[Path]) -> Path:
        while not coming.done() and not self._stopped.is_set() and not asked_to_end():
            wait([coming], 0.2)
            if not coming.done():
                waiting(file, self._share_of(file))
        if not coming.done():
            raise Stopped(f"{file}: stopped")
        try:
            return coming.result()
        except CancelledError:
            raise Stopped(f"{file}: stopped") from None

    def _share_of(self, file: str) -> float:
        """How much of a file that is on its way is there."""
        folder = None if self.keep else self._folder
        return self.repository.received(file, folder) / max(1, self.repository.size(file))

    def _open(self, file: str, path: Path) -> int:
        with self._lock:
            if file not in self._handles:
                self._handles[file] = os.open(path, os.O_RDONLY)
            return self._handles[file]

    def _drop(self, file: str) -> None:
        """Delete a file that came for this conversion, or for an earlier run of it. The lock is held."""
        self._coming.pop(file, None)
        self._read.discard(file)
        handle = self._handles.pop(file, None)
        if handle is not None:
            os.close(handle)
        if self._folder is not None and not self.keep:
            for path in (self._folder / file, self._folder / f"{file}.part"):
                if path.exists():
                    disk.remove(path)


def peak_bytes(needs: Needs, sizes: Mapping[str, int], ahead: int) -> int:
    """Bytes of files on the disk at most, where each lies there from its first piece to its last.

    `ahead` of those that come next lie there too. Worked: shards of 5, 4 and 3 bytes that are read one after
    another, one ahead: 9.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, files in enumerate(needs):
        for file in sorted(files & sizes.keys()):
            first.setdefault(file, i)
            last[file] = i
    order = list(first)
    peak = 0
    for i in sorted(set(first.values())):
        held = sum(sizes[f] for f in order if first[f] <= i <= last[f])
        peak = max(peak, held + sum(sizes[f] for f in [f for f in order if first[f] > i][:ahead]))
    return peak


def _device(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return path.stat().st_dev


# --- shards for a pass over the layers ---


FOLDER = "source"


class Arriving:
    """Brings the files of `needs`, one set for each step, into `folder` as steps come up, and lets them go after."""

    def __init__(self, reader: Reader | None, needs: Sequence[frozenset[str]], folder: Path | None) -> None:
        self._reader = reader if isinstance(reader, HubReader) and folder is not None else None
        self._needs, self._folder = needs, folder

    def start(self, first: int, held: int) -> None:
        """Begin with step number `first`; `held` bytes of hidden states have to fit on the disk too.

        Raises OutputError where the disk has no room for the shards that a step needs and the two after them.
        """
        if self._reader is None or self._folder is None:
            return
        self._reader.prepare(self._needs)
        room = held + self._reader.check_room(self._folder / FOLDER, held, 0)
        free = disk.free_bytes(self._folder)
        if room > free:
            raise OutputError(
                f"{self._folder}: shards being downloaded and hidden states take up to {show_bytes(room)};"
                f" {show_bytes(free)} are free there; choose a work folder on another disk"
            )
        self._reader.start(self._folder / FOLDER, range(first))

    def release(self, step: int) -> None:
        """Say that a step is done with its shards."""
        if self._reader is not None:
            self._reader.release(step)

    def stop(self) -> None:
        """End downloads that nothing waits for any more."""
        if self._reader is not None:
            self._reader.close()
