"""The state of a pass: hidden states that travel through the layers, and what a killed pass goes on from.

    FOLDER/state.npz      what is finished: signature, step, the sink's arrays, which set of hidden states belongs to it
    FOLDER/hidden-*.bin   sets of hidden states; the one that state.npz names is never written to
    FOLDER/source/        shards that come from the Hub and are still needed (see `arriving`)
    FOLDER/lock           says that the folder is mlxquant's and which files are (see `work_folder`)

Hidden states are streams × tokens × width, in memory or in files. A layer reads one set of them and writes another;
which set is which turns round. In files there are three sets, so that the one which a resumed run starts from is left
alone. Files are written and read by position: the system's page cache keeps in memory what fits, and a full disk is an
error, not a crash.

`state.npz` is replaced by a rename and holds the checksum of the hidden states, so whatever a crash leaves is either
whole or recognised. Nothing here waits for the disk: a power failure may cost the pass, never make it wrong. What a
step computes, and when its state is kept, is up to `steps` and `engine`.
"""

from __future__ import annotations

import io
import json
import os
import re
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx
import numpy as np
import xxhash
from numpy.typing import NDArray

from ..disk import files as disk
from ..disk.journal import differences
from ..disk.work_folder import WorkFolder, check_apart
from ..errors import MlxquantError, OutputError
from ..layout.views.bytes import to_mlx, to_numpy
from ..source.checkpoint import read_at
from ..source.hub.reader import FOLDER
from ..words.text import counted

# The commands whose passes leave work, each in folders of its own
COMPARE, CALIBRATE = "compare", "calibrate"

# --- hidden states ---

SETS = 3


class Hidden:
    """States of streams, `width` values of `dtype` a token; in `folder` if given.

    `streams` has for each the lengths of its documents, in tokens. `current` is the set that is read, `saved` the one
    that `state.npz` names, which a resumed run starts from.
    """

    def __init__(self, folder: Path | None, streams: Sequence[Sequence[int]], width: int, dtype: mx.Dtype) -> None:
        self._folder, self._lengths = folder, [list(lengths) for lengths in streams]
        self._width, self._dtype = width, dtype
        self._row = width * int(dtype.size)
        tokens = np.cumsum([0, *(n for lengths in self._lengths for n in lengths)])
        self._tokens = int(tokens[-1])
        firsts = np.cumsum([0, *map(len, self._lengths)])  # of each stream's documents among all
        self._starts = [tokens[a:b] for a, b in pairwise(firsts)]
        self.current, self.saved = 0, None if folder is None else 0
        self._memory: dict[tuple[int, int, int], NDArray[np.uint8]] = {}
        self._handles: dict[int, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of one set."""
        return self._tokens * self._row

    @property
    def following(self) -> int:
        """The set that is written: neither the one that is read nor the one that a resumed run starts from."""
        return next(s for s in range(SETS) if s not in (self.current, self.saved))

    def read(self, stream: int, document: int) -> mx.array:
        """One document's state in the current set, (1, n, width)."""
        return self._get(self.current, stream, document)

    def read_following(self, stream: int, document: int) -> mx.array:
        """The same in the set that is being written."""
        return self._get(self.following, stream, document)

    def write(self, stream: int, document: int, state: mx.array) -> None:
        """Put one document's state (1, n, width) into the following set, as values of its dtype."""
        data = to_numpy(state.astype(self._dtype))
        if self._folder is None:
            self._memory[self.following, stream, document] = data
            return
        disk.write_at(self._handle(self.following), data.data, self._at(stream, document), self._path(self.following))

    def turn(self) -> None:
        """Let the following set be the current one."""
        old, self.current = self.current, self.following
        if self._folder is None:
            for key in [k for k in self._memory if k[0] == old]:
                del self._memory[key]

    def digest(self, which: int) -> str:
        """Checksum of a set's file."""
        checksum = xxhash.xxh3_128()
        for block in self._blocks(which):
            checksum.update(block.data)
        return checksum.hexdigest()

    def matches(self, which: int, digest: str) -> bool:
        """Whether a set's file is there, whole, and has this checksum."""
        if self._folder is None or not self._path(which).is_file() or self._path(which).stat().st_size < self.nbytes:
            return False
        return self.digest(which) == digest

    def start_from(self, which: int) -> None:
        """Go on from a set that an earlier run kept."""
        self.current = self.saved = which

    def close(self) -> None:
        """Close the files; they stay where they are."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        self._memory.clear()

    def _get(self, which: int, stream: int, document: int) -> mx.array:
        n = self._lengths[stream][document]
        if self._folder is None:
            data = self._memory[which, stream, document]
        else:
            data = np.empty(n * self._row, np.uint8)
            read_at(self._handle(which), self._path(which).name, self._at(stream, document), data.data)
        return to_mlx(data, (1, n, self._width), self._dtype)

    def _at(self, stream: int, document: int) -> int:
        return int(self._starts[stream][document]) * self._row

    def _blocks(self, which: int, size: int = 1 << 22) -> Iterator[NDArray[np.uint8]]:
        for at in range(0, self.nbytes, size):
            data = np.empty(min(size, self.nbytes - at), np.uint8)
            read_at(self._handle(which), self._path(which).name, at, data.data)
            yield data

    def _path(self, which: int) -> Path:
        assert self._folder is not None
        return self._folder / f"hidden-{which}.bin"

    def _handle(self, which: int) -> int:
        if which not in self._handles:
            # whole from the beginning: streams that are the reference still are never written
            self._handles[which] = disk.open_to_write(self._path(which), self.nbytes)
        return self._handles[which]


# --- state ---


STATE = "state.npz"
_LARGEST_STATE = 256 << 20
_HIDDEN = [f"hidden-{i}.bin" for i in range(SETS)]
# What the signature of a pass has
_SIGNATURE = {"source", "candidates", "documents", "options", "versions"}
SinkState = Mapping[str, NDArray[np.generic]]


@dataclass
class Resume:
    """What a pass goes on from: the next step, the set of hidden states and its checksum, sink's arrays, figures."""

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
        self._every_s, self._saved_step = every_s, 0
        self._saved_at = time.monotonic()
        self._held = ExitStack()
        command = CALIBRATE if signature.get("listens") else COMPARE
        self._work = None if folder is None else _work_folder(folder, shards, command)

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
                refused = isinstance(error, MlxquantError) and self._saved_step <= 1
                if refused or not self._work.holds(STATE):  # or finished; nothing in it is worth keeping
                    self._work.remove()
                    self._work.leave()

    def resume(self) -> Resume | None:
        """What an earlier run of the same pass finished. Raises OutputError where the folder is another pass's."""
        if self._work is None or self.folder is None:
            return None
        facts, sink = _read_state(self.folder / STATE)
        if facts is None:
            self._work.own()
            return None
        self._saved_step = int(facts["step"])
        changes = list(differences(facts["signature"], self._signature))
        if changes:
            raise OutputError(
                "\n".join([f"{self.folder}: an unfinished pass over something else lies there:", *changes[:10]])
                + "\nchoose another work folder, or start over with --fresh"
            )
        self._work.own()
        return Resume(facts["step"], facts["set"], facts["digest"], sink, facts["figures"])

    def due(self) -> bool:
        """Whether enough was done since the last time to be worth keeping."""
        return self.folder is not None and time.monotonic() - self._saved_at >= self._every_s

    def keep(self, step: int, hidden: Hidden, sink: SinkState, figures: Mapping[str, Any]) -> None:
        """Keep what is finished: everything before step number `step`."""
        if self.folder is None:
            return
        facts = {
            "signature": self._signature,
            "step": step,
            "set": hidden.current,
            "digest": hidden.digest(hidden.current),
            "figures": dict(figures),
        }
        disk.write_file(self.folder / f"{STATE}.new", pack(sink, facts))
        disk.rename(self.folder / f"{STATE}.new", self.folder / STATE)
        hidden.saved, self._saved_step = hidden.current, step
        self._saved_at = time.monotonic()

    def finish(self) -> None:
        """Take away what the finished pass no longer needs."""
        if self._work is not None:
            self._work.remove()


def check_work(folder: Path | None, inputs: Iterable[tuple[str, Path | None]], command: str = COMPARE) -> None:
    """Raise UsageError where an input lies in the work folder or holds it, OutputError where that is not free."""
    if folder is not None:
        check_apart(folder, [(name, path) for name, path in inputs if path is not None])
        _work_folder(folder, (), command).check()


def discard(folder: Path, command: str = COMPARE) -> bool:
    """Throw an unfinished pass away. Raises OutputError as `WorkFolder.discard`."""
    return _work_folder(folder, (), command).discard()


def progress_of(folder: Path) -> tuple[str, str]:
    """What an unfinished pass is, and how far it is, as a person reads it; it may be a stranger's file."""
    facts = None
    with suppress(OSError, ValueError, RecursionError, zipfile.BadZipFile):
        # a state may be large, a stranger's may claim to be larger still: look before it is read
        if disk.is_file(folder / STATE):
            with zipfile.ZipFile(folder / STATE) as state:
                if sum(entry.file_size for entry in state.infolist()) <= _LARGEST_STATE:
                    facts, _ = _read_state(folder / STATE)
    if facts is None:
        return "a pass over a model's layers", "nothing yet"
    signature = facts.get("signature")
    source = signature.get("source") if isinstance(signature, dict) else None
    order = signature.get("order") if isinstance(signature, dict) else None
    what = source.get("name") if isinstance(source, dict) else "an unknown source"
    names = ", ".join(map(str, order)) if isinstance(order, list) else "unknown candidates"
    calibrates = isinstance(signature, dict) and signature.get("listens")
    steps = facts.get("step")
    progress = f"{counted(steps, 'step')} finished" if isinstance(steps, int) else "nothing yet"
    return str(what) if calibrates else f"{what} against {names}", progress


def _work_folder(folder: Path, shards: Collection[str], command: str) -> WorkFolder:
    names = [STATE, f"{STATE}.new", *_HIDDEN, *_shards(shards)]
    return WorkFolder(
        folder,
        command,
        names,
        makes=_MAKES,
        earlier=_begun_before_markers,
        advice="choose another work folder",
        busy=f"{folder}: another pass works there right now; wait for it",
    )


# What a pass leaves in its folder, whatever its source
_MAKES = re.compile(r"state\.npz(\.new)?|hidden-\d\.bin|source/[^/]+\.safetensors(\.part)?")


def _shards(names: Collection[str]) -> Iterator[str]:
    yield from (f"{FOLDER}/{name}{ending}" for name in names for ending in ("", ".part"))


def _begun_before_markers(folder: Path) -> list[str] | None:
    """The files of a pass that a version without markers began: its state holds a pass's signature."""
    path = folder / STATE
    facts, _ = _read_state(path) if not path.is_symlink() else (None, None)
    if facts is None or not isinstance(facts.get("signature"), dict) or not facts["signature"].keys() >= _SIGNATURE:
        return None
    source = facts["signature"]["source"]
    return [STATE, f"{STATE}.new", *_HIDDEN, *_shards(source["files"] if source.get("revision") else ())]


def _read_state(path: Path) -> tuple[dict[str, Any] | None, dict[str, NDArray[np.generic]]]:
    """A state file's facts, and the sink's arrays; None where there is none, or a power failure cut it."""
    try:
        arrays, facts = unpack(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None, {}
    return facts, arrays


# --- arrays and facts as bytes ---


def pack(arrays: Mapping[str, NDArray[np.generic]], facts: Mapping[str, Any]) -> bytes:
    """Arrays by name (any name, any shape) and a few facts that JSON can hold, as the bytes of an .npz file."""
    buffer, names = io.BytesIO(), list(arrays)
    # numbered, since the names hold slashes, which an .npz file takes for folders
    numbered: dict[str, Any] = {f"a{i}": np.asarray(arrays[name]) for i, name in enumerate(names)}
    text = json.dumps({**facts, "names": names}).encode()
    np.savez(buffer, told=np.frombuffer(text, np.uint8), **numbered)
    return buffer.getvalue()


def unpack(file: Path | io.BytesIO) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
    """What `pack` packed. Raises what numpy and json raise of a file that is something else."""
    with np.load(file, allow_pickle=False) as stored:
        facts = json.loads(bytes(stored["told"]))
        return {name: stored[f"a{i}"] for i, name in enumerate(facts.pop("names"))}, facts
