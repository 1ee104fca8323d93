"""Bringing one file of a Hub repository onto the disk, whatever the connection does.

Small files go into huggingface_hub's usual cache. Shards go there too if they are to be kept; else into a folder of
the conversion's own, as `NAME.part` until they are whole. huggingface_hub's cache starts a file anew after a failure,
so here its transfer is called with what is there already: a cut connection, and a killed run, lose nothing. A file
counts as whole when its size is the one of the Hub's listing and its SHA-256 too, where the listing has it.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from . import disk
from .errors import MlxquantError
from .hub_errors import HubError, endpoint, explained

# Failures in a row without a byte more, and the longest wait between two of them, in seconds.
ATTEMPTS = 10
LONGEST_WAIT = 60.0


class Stopped(MlxquantError):
    """The conversion ended while a file was on its way."""


@dataclass(frozen=True)
class Repository:
    """One commit of a model repository: sizes of its files by name, SHA-256 of large ones, as the Hub lists them."""

    id: str
    commit: str
    sizes: Mapping[str, int | None]
    hashes: Mapping[str, str] = field(default_factory=dict)

    def download(self, file: str, stopped: threading.Event | None = None) -> Path:
        """Bring a file into the usual cache. Raises HubError, and `Stopped` once that is set."""
        from huggingface_hub import hf_hub_download

        bar = _stopping(stopped) if stopped is not None else None
        with explained(self.id, self.commit):
            return Path(hf_hub_download(self.id, file, revision=self.commit, tqdm_class=bar))

    def cached(self, file: str) -> Path | None:
        """Where the usual cache has a file, whole; None where it has not."""
        from huggingface_hub import constants, try_to_load_from_cache

        # the cache's place is asked for when it is needed: tests and callers may have moved it
        found = try_to_load_from_cache(self.id, file, cache_dir=constants.HF_HUB_CACHE, revision=self.commit)
        path = Path(found) if isinstance(found, str) else None
        return path if path is not None and path.is_file() and path.stat().st_size == self.sizes[file] else None

    def fetch(self, file: str, folder: Path, stopped: threading.Event) -> Path:
        """Bring a file into `folder`, going on with what is there. Raises HubError, OutputError, `Stopped`."""
        target, part = folder / file, folder / f"{file}.part"
        if target.exists() and not self._fault(file, target):
            return target
        disk.remove(target)
        _persistently(lambda: self._transfer(file, part, stopped), part, stopped, file)
        if fault := self._fault(file, part):  # bytes of an earlier run that a crash spoiled, or a bad connection's
            disk.remove(part)
            _persistently(lambda: self._transfer(file, part, stopped), part, stopped, file)
            if fault := self._fault(file, part):
                disk.remove(part)
                raise HubError(f"{fault}; downloaded twice; run the same command again later")
        disk.rename(part, target)
        return target

    def keep(self, file: str, stopped: threading.Event) -> Path:
        """Bring a shard into the usual cache, trying again as `fetch` does."""
        found: list[Path] = []
        _persistently(lambda: found.append(self.download(file, stopped)), None, stopped, file)
        size = found[0].stat().st_size
        if size != self.sizes[file]:
            raise HubError(f"{file}: {self.sizes[file]:,} bytes expected, {size:,} in the cache; delete {found[0]}")
        return found[0]

    def _transfer(self, file: str, part: Path, stopped: threading.Event) -> None:
        """Append what is missing of a file to what is there."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, Any] = {**build_hf_headers(), "Accept-Encoding": "identity"}
        size = self.sizes[file]
        target: Any = _Part(part, stopped)
        silent: Any = _Silent
        try:
            if size is not None and target.tell() > size:
                target.seek(0)
                target.truncate()
            with explained(self.id, self.commit):
                http_get(
                    hf_hub_url(self.id, file, revision=self.commit),
                    target,
                    resume_size=target.tell(),
                    headers=headers,
                    expected_size=size,
                    tqdm_class=silent,
                )
        finally:
            target.close()

    def _fault(self, file: str, path: Path) -> str:
        """What keeps a downloaded file from being the listed one; empty if nothing does."""
        size, wanted = path.stat().st_size, self.hashes.get(file)
        if size != self.sizes[file]:
            return f"{file}: {self.sizes[file]:,} bytes expected, {size:,} came from {endpoint()}"
        if wanted is None:
            return ""
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        return "" if found == wanted else f"{file}: SHA-256 {wanted} expected, {found} came from {endpoint()}"


def _persistently(act: Callable[[], object], part: Path | None, stopped: threading.Event, file: str) -> None:
    """Try until it works; give up after `ATTEMPTS` failures in a row that brought no byte."""
    failures = 0
    while True:
        before = _size(part)
        try:
            act()
        except HubError as error:
            failures = 0 if _size(part) > before else failures + 1
            if not error.passing or stopped.is_set():
                raise
            if failures >= ATTEMPTS:
                raise HubError(
                    f"{file}: {error}; tried {ATTEMPTS} times. What is finished is kept: run the same command again"
                    " to go on from there"
                ) from error
            if stopped.wait(min(LONGEST_WAIT, error.wait or 2.0**failures)):
                raise Stopped(f"{file}: stopped") from None
        else:
            return


def _size(part: Path | None) -> int:
    return part.stat().st_size if part is not None and part.exists() else 0


class _Part:
    """A file on its way, as huggingface_hub writes to it: at its end, through `disk`, until told to stop."""

    def __init__(self, path: Path, stopped: threading.Event) -> None:
        self._path, self._stopped = path, stopped
        self._handle = disk.open_to_write(path)
        self._at = os.fstat(self._handle).st_size

    def write(self, data: bytes) -> int:
        if self._stopped.is_set():
            raise Stopped(f"{self._path.name}: stopped")
        disk.write_at(self._handle, memoryview(data), self._at, self._path)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        self._at = position
        return position

    def truncate(self) -> int:
        os.ftruncate(self._handle, self._at)
        return self._at

    def close(self) -> None:
        os.close(self._handle)


def _stopping(stopped: threading.Event) -> Any:
    """Give huggingface_hub's progress bar, made to end the download when it is told to stop."""
    from huggingface_hub.utils import tqdm

    def update(self: Any, count: float | None = 1) -> Any:
        if stopped.is_set():
            raise Stopped("stopped")
        return tqdm.update(self, count)

    return type("Stopping", (tqdm,), {"update": update})


class _Silent:
    """A progress bar that shows nothing: the conversion has one."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: float) -> None:
        pass
