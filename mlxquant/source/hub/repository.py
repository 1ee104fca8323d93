"""Bringing the files of a Hub repository onto the disk, whatever the connection does and whatever the server sends.

Small files go into huggingface_hub's usual cache, laid out as it does. Shards go there too if they are to be kept; else
into a folder of the conversion's own, as `NAME.part` until they are whole: a cut connection, and a killed run, lose
nothing. A file counts as whole when it has the size of the Hub's listing and its SHA-256 (or git's SHA-1), where the
listing has one; it is hashed as it comes. What the cache has already is hashed before it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from ...disk import files as disk
from ...errors import OutputError, SourceError
from ...words.interrupts import asked_to_end
from ..checkpoint import LARGEST_SMALL
from ..links import is_template
from .client import About, Stopped, asked
from .errors import HubError, endpoint, explained, hub_constants
from .listing import LISTING_BYTES, Listing, read_listing

T = TypeVar("T")

# Failures in a row without progress, the longest wait between two of them in seconds, and the longest that the Hub
# may ask for before it is taken as a no: some ten minutes in all.
ATTEMPTS = 10
LONGEST_WAIT = 60.0
LONGEST_ASKED = 600.0
# Bytes that count as progress.
PROGRESS = 16 << 10
# Failures in a row of a request for a header, which somebody waits for.
HEADER_ATTEMPTS = 3
READ = 4 << 20


@dataclass(frozen=True)
class Repository:
    """One commit of a model repository, as the Hub lists it.

    `headers` are lengths and SHA-256 of the shards' headers, where these were read apart from the rest.
    """

    id: str
    listing: Listing
    headers: dict[str, tuple[int, bytes]] = field(default_factory=dict, compare=False)

    @property
    def commit(self) -> str:
        """The commit's forty hex digits."""
        return self.listing.commit

    @property
    def top(self) -> dict[str, int | None]:
        """Sizes of the files at the top and of named chat templates; all else in folders is no part of a checkpoint."""
        return {name: size for name, size in self.listing.sizes.items() if "/" not in name or is_template(name)}

    def size(self, file: str) -> int:
        """The size of a file as listed. Raises HubError where the listing has none."""
        size = self.listing.sizes.get(file)
        if size is None:
            raise HubError(f"{file}: {endpoint()} does not say how long it is; try again later")
        return size

    # --- what is small ---

    def read_range(self, file: str, start: int, length: int, stopped: threading.Event) -> bytes:
        """Read a range of a file. A server that sends the whole file instead is refused, not downloaded."""

        def read() -> bytes:
            with asked(self._url(file), self._about(file), span=(start, start + length), stopped=stopped) as answer:
                if answer.status != 206:
                    raise HubError(f"{file}: {endpoint()} does not serve parts of files; hf download {self.id} instead")
                answer.check_range(start, start + length, self.size(file))
                return answer.read(length)

        text = _persistently(read, lambda: 0, stopped, file, HEADER_ATTEMPTS)
        if len(text) != length:
            raise HubError(f"{file}: {length:,} bytes from {start:,} asked for, {len(text):,} came; try again")
        return text

    def download(self, file: str) -> Path:
        """Bring a small file into the usual cache, if it is not there. Raises HubError."""
        if (size := self.size(file)) > LARGEST_SMALL:
            raise SourceError(f"{file}: {size:,} bytes; files beside the weights are read up to {LARGEST_SMALL:,}")
        return self.keep(file, threading.Event(), HEADER_ATTEMPTS)

    # --- what is large ---

    def cached(self, file: str) -> Path | None:
        """Where the usual cache has a file of the listed size; None where it has not."""
        from huggingface_hub import try_to_load_from_cache

        # the cache's place is asked for when it is needed: tests and callers may have moved it
        cache = hub_constants().HF_HUB_CACHE
        place = try_to_load_from_cache(self.id, file, cache_dir=cache, revision=self.commit)
        path = Path(place) if isinstance(place, str) else None
        return path if path is not None and path.is_file() and path.stat().st_size == self.size(file) else None

    def from_cache(self, file: str, stopped: threading.Event) -> Path | None:
        """Where the usual cache has a file, which is read through and held against its hash. Raises HubError."""
        path = self.cached(file)
        if path is not None and (fault := self._fault(file, path, stopped)):
            raise HubError(f"{fault} in the cache; delete {path} and run the same command again")
        return path

    def check_header(self, file: str, path: Path) -> None:
        """Raise HubError where a shard's header is not the one that was read first, and everything was planned by."""
        length, digest = self.headers.get(file, (0, None))
        if digest is None:
            return
        with path.open("rb") as stream:
            if hashlib.sha256(stream.read(length)).digest() != digest:
                raise HubError(
                    f"{file}: its first {length:,} bytes are not those that {endpoint()} sent before; do not trust it"
                )

    def fetch(self, file: str, folder: Path, stopped: threading.Event) -> Path:
        """Bring a file into `folder`, going on with what is there. Raises HubError, OutputError, `Stopped`."""
        target = folder / file
        if target.exists() and not self._fault(file, target, stopped):
            return target
        disk.remove(target)
        self._bring(file, target, folder / f"{file}.part", stopped, ATTEMPTS)
        return target

    def keep(self, file: str, stopped: threading.Event, attempts: int = ATTEMPTS) -> Path:
        """Bring a file into the usual cache as `fetch` does, if it is not there."""
        if (path := self.from_cache(file, stopped)) is not None:
            return path
        snapshot, blob = self._places(file)
        with explained(self.id, self.commit), _as_os_error():
            for path in (snapshot, blob):
                path.parent.mkdir(parents=True, exist_ok=True)
            if blob == snapshot or not blob.is_file() or self._fault(file, blob, stopped):
                self._bring(file, blob, _part_of(blob), stopped, attempts)
            if blob != snapshot:
                _link(blob, snapshot)
        return snapshot

    def received(self, file: str, folder: Path | None) -> int:
        """Bytes of a file that are there while `fetch` brings it into `folder`, or with None `keep` into the cache."""
        target = self._places(file)[1] if folder is None else folder / file
        part = _part_of(target) if folder is None else folder / f"{file}.part"
        return _size(part) or _size(target)

    def _places(self, file: str) -> tuple[Path, Path]:
        """Where the usual cache has a file: its name in the snapshot, and its bytes."""
        from huggingface_hub.file_download import repo_folder_name

        folder = Path(hub_constants().HF_HUB_CACHE) / repo_folder_name(repo_id=self.id, repo_type="model")
        snapshot = folder / "snapshots" / self.commit / file
        digest = self.listing.hashes.get(file) or self.listing.blobs.get(file)
        return snapshot, folder / "blobs" / digest if digest else snapshot

    def _bring(self, file: str, target: Path, part: Path, stopped: threading.Event, attempts: int) -> None:
        """Download a file by way of `part`; once more from the start where what came is not what is listed."""

        def transfer() -> str:
            return self._transfer(file, target, part, stopped)

        for _ in range(2):
            if not (fault := _persistently(transfer, lambda: _size(part), stopped, file, attempts)):
                return
        raise HubError(f"{fault} from {endpoint()}; downloaded twice; run the same command again later")

    def _transfer(self, file: str, target: Path, path: Path, stopped: threading.Event) -> str:
        """Append what is missing of a file, and give it its name if it is the listed one. Gives why it is not.

        All of it under the lock of `path`, for another process may want the same file.
        """
        size = self.size(file)
        with _Part(path, size, self._hasher(file), stopped) as part:
            if part.end == 0 and target.is_file() and not self._fault(file, target, stopped):
                disk.remove(path)  # another process has brought it while its lock was waited for
                return ""
            if part.end < size:
                self._receive(file, part, size, stopped)
            if fault := self._difference(file, part.hasher.hexdigest() if part.hasher else None):
                disk.remove(path)  # bytes of an earlier run that a crash spoiled, or a bad connection's
                return fault
            disk.remove(target)
            disk.rename(path, target)
            return ""

    def _receive(self, file: str, part: _Part, size: int, stopped: threading.Event) -> None:
        """Append what the Hub sends. Raises HubError where that is not all."""
        span = (part.end, None) if part.end else None
        with asked(self._url(file), self._about(file), span=span, stopped=stopped) as answer:
            if answer.status == 200:
                part.begin(self._hasher(file))
            else:
                answer.check_range(part.end, size, size)
            for piece in answer.pieces(size - part.end):
                part.write(piece)
        if part.end < size:
            text = f"{file}: {size:,} bytes expected, {part.end:,} came from {endpoint()}"
            raise HubError(f"{text}, then the connection ended; try again", passing=True)

    # --- whether it is what is listed ---

    def _fault(self, file: str, path: Path, stopped: threading.Event) -> str:
        """What keeps a file on the disk from being the listed one; empty if nothing does."""
        if (size := path.stat().st_size) != self.size(file):
            return f"{file}: {self.size(file):,} bytes expected, {size:,} found"
        hasher = self._hasher(file)
        if hasher is None:
            return ""
        with path.open("rb") as stream:
            while data := stream.read(READ):
                _go_on(stopped, file)
                hasher.update(data)
        return self._difference(file, hasher.hexdigest())

    def _hasher(self, file: str) -> hashlib._Hash | None:
        """What takes the hash that the listing has of a file; git's covers a few words before it, too."""
        if file in self.listing.hashes:
            return hashlib.sha256()
        if file in self.listing.blobs:
            return hashlib.sha1(b"blob %d\0" % self.size(file), usedforsecurity=False)
        return None

    def _difference(self, file: str, digest: str | None) -> str:
        wanted = self.listing.hashes.get(file) or self.listing.blobs.get(file)
        if digest == wanted:
            return ""
        kind = "SHA-256" if file in self.listing.hashes else "git's SHA-1"
        return f"{file}: {kind} {wanted} expected, {digest} found"

    def _url(self, file: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.id, file, revision=self.commit)

    def _about(self, file: str) -> About:
        return About(self.id, self.commit, file)


def look_up(repository: str, revision: str | None) -> Repository:
    """Ask the Hub for a repository at a branch, tag or commit, or at its newest. Raises HubError."""
    from urllib.parse import quote

    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    url = f"{hub_constants().ENDPOINT}/api/models/{repository}{at}?blobs=true"
    with asked(url, About(repository, revision)) as answer:
        return Repository(repository, read_listing(answer.read(LISTING_BYTES), repository, revision))


def _persistently(
    act: Callable[[], T], size: Callable[[], int], stopped: threading.Event, file: str, attempts: int
) -> T:
    """Try until it works; give up after `attempts` failures in a row that brought next to nothing."""
    failures = 0
    while True:
        before = size()
        try:
            return act()
        except HubError as error:
            failures = 0 if size() >= before + PROGRESS else failures + 1
            _go_on(stopped, file)
            if not error.passing or (error.wait or 0) > LONGEST_ASKED:
                raise
            if failures >= attempts:
                raise HubError(
                    f"{file}: {error}; tried {attempts} times. What is finished is kept: run the same command again"
                    " to go on from there"
                ) from error
            _sleep(min(LONGEST_WAIT, error.wait if error.wait is not None else 2.0**failures), stopped, file)


def _sleep(seconds: float, stopped: threading.Event, file: str) -> None:
    while seconds > 0:
        stopped.wait(min(seconds, 0.2))
        _go_on(stopped, file)
        seconds -= 0.2


def _go_on(stopped: threading.Event, file: str) -> None:
    """Raise `Stopped` once the work has ended."""
    if stopped.is_set() or asked_to_end():
        raise Stopped(f"{file}: stopped")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # not begun, or just given its name
        return 0


def _part_of(blob: Path) -> Path:
    """Where the bytes of a file lie in the cache until they are whole."""
    return blob.with_name(f"{blob.name[:200]}.mlxquant-part")


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Let a change to the cache fail as what the system said: the advice for a build's own files does not fit."""
    try:
        yield
    except OutputError as error:
        raise error.__cause__ or error from None


def _link(blob: Path, snapshot: Path) -> None:
    """Give a file of the cache its name, as huggingface_hub does: a link that holds wherever the cache is moved."""
    up = os.path.relpath(blob, snapshot.parent)
    with suppress(FileNotFoundError):
        snapshot.unlink()
    try:
        snapshot.symlink_to(up)
    except FileExistsError:
        pass  # another process was faster
    except OSError:  # a file system without links
        blob.rename(snapshot)


class _Part:
    """A file on its way: what is there of it is locked and hashed, and what comes is written at its end."""

    def __init__(self, path: Path, size: int, hasher: hashlib._Hash | None, stopped: threading.Event) -> None:
        self.hasher, self._path, self._stopped = hasher, path, stopped
        self._handle = self._open()
        try:
            self.end = os.fstat(self._handle).st_size
            if self.end > size:
                self.begin(hasher)
            self._hash()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def begin(self, hasher: hashlib._Hash | None) -> None:
        """Start from nothing."""
        self.hasher, self.end = hasher, 0
        os.ftruncate(self._handle, 0)

    def write(self, data: bytes) -> None:
        """Append bytes."""
        _go_on(self._stopped, self._path.name)
        disk.write_at(self._handle, memoryview(data), self.end, self._path)
        self.end += len(data)
        if self.hasher is not None:
            self.hasher.update(data)

    def _open(self) -> int:
        """Open the file once no other process has it. Raises `Stopped`."""
        while True:
            handle = disk.open_to_write(self._path)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._path.exists() and os.path.samestat(os.fstat(handle), self._path.stat()):
                    return handle  # not one that another process has finished and renamed
            except BlockingIOError:
                pass
            except OSError:
                return handle  # a file system without locks
            os.close(handle)
            _sleep(0.2, self._stopped, self._path.name)

    def _hash(self) -> None:
        at = 0
        while self.hasher is not None and at < self.end:
            data = os.pread(self._handle, min(READ, self.end - at), at)
            if not data:
                raise SourceError(f"{self._path.name}: changed while it was read, start again")
            _go_on(self._stopped, self._path.name)
            self.hasher.update(data)
            at += len(data)
