"""What a pass keeps in its work folder, so that a killed one goes on at the layer that it was in.

    FOLDER/state.npz      what is finished: signature, step, the sink's arrays, which set of hidden states belongs to it
    FOLDER/hidden-*.bin   the hidden states (see `hidden`), never those that state.npz names while they are written
    FOLDER/source/        shards that come from the Hub and are still needed (see `arriving`)
    FOLDER/lock           says that the folder is mlxquant's and which files are (see `work_folder`)

`state.npz` is replaced by a rename and holds the checksum of the hidden states, so whatever a crash leaves is either
whole or recognised. Nothing here waits for the disk: a power failure may cost the pass, not its truth.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..disk import files as disk
from ..disk.journal import differences
from ..disk.work_folder import WorkFolder, check_apart
from ..errors import MlxquantError, OutputError
from ..source.hub.arriving import FOLDER
from .hidden import SETS, Hidden

STATE = "state.npz"
_HIDDEN = [f"hidden-{i}.bin" for i in range(SETS)]
# What the signature of a pass has
_SIGNATURE = {"source", "candidates", "documents", "options", "versions"}
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
    """A work folder, held from `with` on. Without a folder nothing is kept.

    `shards` are the files of the source that may be downloaded into it.
    """

    def __init__(
        self,
        folder: Path | None,
        signature: Mapping[str, Any],
        *,
        every_s: float = 30.0,
        fresh: bool = False,
        shards: Collection[str] = (),
    ) -> None:
        self.folder, self._signature, self._fresh = folder, json.loads(json.dumps(signature)), fresh
        self._every_s, self._kept_step = every_s, 0
        self._kept_at = time.monotonic()
        self._held = ExitStack()
        self._work = None if folder is None else _work_folder(folder, shards)

    def __enter__(self) -> Work:
        if self._work is not None:
            self._held.enter_context(self._work.claimed())
            if self._fresh:
                self._work.remove()
                self._work.own(anew=True)
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        with self._held:
            if self._work is not None:
                refused = isinstance(error, MlxquantError) and self._kept_step <= 1
                if refused or not self._work.holds(STATE):  # or finished; nothing in it is worth keeping
                    self._work.remove()
                    self._work.leave()

    def kept(self) -> Kept | None:
        """What an earlier run of the same pass finished. Raises OutputError where the folder is another pass's."""
        if self._work is None or self.folder is None:
            return None
        told, sink = _read_state(self.folder / STATE)
        if told is None:
            self._work.own()
            return None
        self._kept_step = int(told["step"])
        others = list(differences(told["signature"], self._signature))
        if others:
            raise OutputError(
                "\n".join([f"{self.folder}: an unfinished pass over something else lies there:", *others[:10]])
                + "\nchoose another work folder, or start over with --fresh"
            )
        self._work.own()
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
        if self._work is not None:
            self._work.remove()


def check_work(folder: Path | None, inputs: Iterable[tuple[str, Path | None]]) -> None:
    """Raise UsageError where an input lies in the work folder or holds it, OutputError where that is not free."""
    if folder is not None:
        check_apart(folder, [(name, path) for name, path in inputs if path is not None])
        _work_folder(folder, ()).check()


def _work_folder(folder: Path, shards: Collection[str]) -> WorkFolder:
    names = [STATE, f"{STATE}.new", *_HIDDEN, *_shards(shards)]
    return WorkFolder(folder, "compare", names, earlier=_begun_before_markers, advice="choose another work folder",
                      busy=f"{folder}: another pass works there right now; wait for it")  # fmt: skip


def _shards(names: Collection[str]) -> Iterator[str]:
    yield from (f"{FOLDER}/{name}{ending}" for name in names for ending in ("", ".part"))


def _begun_before_markers(folder: Path) -> list[str] | None:
    """The files of a pass that a version without markers began: its state holds a pass's signature."""
    path = folder / STATE
    told, _ = _read_state(path) if not path.is_symlink() else (None, None)
    if told is None or not isinstance(told.get("signature"), dict) or not told["signature"].keys() >= _SIGNATURE:
        return None
    source = told["signature"]["source"]
    return [STATE, f"{STATE}.new", *_HIDDEN, *_shards(source["files"] if source.get("revision") else ())]


def _read_state(path: Path) -> tuple[dict[str, Any] | None, dict[str, NDArray[np.generic]]]:
    """What a state file tells, and the sink's arrays; None where there is none, or a power failure cut it."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            told = json.loads(bytes(arrays["told"]))
            return told, {name: arrays[f"a{i}"] for i, name in enumerate(told["names"])}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None, {}
