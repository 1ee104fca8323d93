"""What a pass keeps in its work folder, so that a killed one goes on at the layer that it was in.

    FOLDER/state.npz      what is finished: signature, step, the sink's arrays, which set of hidden states belongs to it
    FOLDER/hidden-*.bin   the hidden states (see `hidden`), never those that state.npz names while they are written
    FOLDER/source/        shards that come from the Hub and are still needed (see `arriving`)
    FOLDER/lock           held while a pass is at work; the lock is the kernel's, so a crash leaves none behind

`state.npz` is replaced by a rename and holds the checksum of the hidden states, so whatever a crash leaves is either
whole or recognised. Nothing here waits for the disk: a power failure may cost the pass, not its truth.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..builds.write.signature import differences
from ..disk import files as disk
from ..errors import MlxquantError, OutputError
from ..source.hub.arriving import FOLDER
from .hidden import SETS, Hidden

STATE, LOCK = "state.npz", "lock"
SinkState = Mapping[str, NDArray[np.generic]]


@dataclass
class Kept:
    """What an earlier run left: the next step, the set of hidden states, the sink's arrays, and its figures."""

    step: int
    which: int
    digest: str
    sink: dict[str, NDArray[np.generic]]
    figures: dict[str, Any] = field(default_factory=dict)


class Work:
    """A work folder, locked from `with` on. Without a folder nothing is kept."""

    def __init__(
        self, folder: Path | None, signature: Mapping[str, Any], *, every_s: float = 30.0, fresh: bool = False
    ) -> None:
        self.folder, self._signature, self._fresh = folder, json.loads(json.dumps(signature)), fresh
        self._every_s, self._kept_step = every_s, 0
        self._lock: int | None = None
        self._kept_at = time.monotonic()

    def __enter__(self) -> Work:
        if self.folder is not None:
            disk.make_folder(self.folder)
            strange = {p.name for p in self.folder.iterdir()} - self._names() - {".DS_Store"}
            if strange:
                raise OutputError(
                    f"{self.folder}: holds {sorted(strange)[0]}, which no pass left there; choose another work folder"
                )
            self._lock = disk.open_to_write(self.folder / LOCK)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                self._lock = None
                raise OutputError(f"{self.folder}: another pass works there right now; wait for it") from None
            if self._fresh:
                self._clear()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self.folder is not None and self._lock is not None:
            refused = isinstance(error, MlxquantError) and self._kept_step <= 1
            if refused or not (self.folder / STATE).exists():  # or finished; nothing in it is worth keeping
                self._clear()
                disk.remove(self.folder / LOCK)
                disk.remove_empty(self.folder)
            os.close(self._lock)
            self._lock = None

    def kept(self) -> Kept | None:
        """What an earlier run of the same pass finished. Raises OutputError where the folder is another pass's."""
        path = self.folder / STATE if self.folder is not None else None
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                told = json.loads(bytes(found["told"]))
                sink = {name: found[f"a{i}"] for i, name in enumerate(told["names"])}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, json.JSONDecodeError):
            return None  # a power failure cut it
        self._kept_step = int(told["step"])
        others = list(differences(told["signature"], self._signature))
        if others:
            raise OutputError(
                "\n".join([f"{self.folder}: an unfinished pass over something else lies there:", *others[:10]])
                + "\nchoose another work folder, or start over with --fresh"
            )
        return Kept(told["step"], told["set"], told["digest"], sink, told["figures"])

    def due(self) -> bool:
        """Whether enough was done since the last time to be worth keeping."""
        return self.folder is not None and time.monotonic() - self._kept_at >= self._every_s

    def keep(self, step: int, hidden: Hidden, sink: SinkState, figures: Mapping[str, Any]) -> None:
        """Keep what is finished: everything before step number `step`."""
        if self.folder is None:
            return
        names = list(sink)
        told = {
            "signature": self._signature,
            "step": step,
            "set": hidden.current,
            "digest": hidden.digest(hidden.current),
            "names": names,
            "figures": dict(figures),
        }
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"a{i}": np.asarray(sink[name]) for i, name in enumerate(names)}
        np.savez(buffer, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)
        disk.write_file(self.folder / f"{STATE}.new", buffer.getvalue())
        disk.rename(self.folder / f"{STATE}.new", self.folder / STATE)
        hidden.kept, self._kept_step = hidden.current, step
        self._kept_at = time.monotonic()

    def finish(self) -> None:
        """Take away what the finished pass no longer needs."""
        if self.folder is not None:
            self._clear()

    def _clear(self) -> None:
        assert self.folder is not None
        for name in sorted(self._names() - {LOCK}):
            disk.remove(self.folder / name)

    def _names(self) -> set[str]:
        return {STATE, f"{STATE}.new", LOCK, FOLDER, *(f"hidden-{i}.bin" for i in range(SETS))}
