"""The work folder of an allocation: what is kept there, what is refused, what may be deleted.

    FOLDER/lock            says that the folder is mlxquant's (see `disk.work_folder`); other files there are left alone
    FOLDER/damage.json     the KL of every probe whose pass is finished
    FOLDER/checks.json     KL and tokens of every recipe and document of finished checks
    FOLDER/calibrate.cal   what enters the modules, where the method needs it and nobody gave it
    FOLDER/pass-…          the pass that is at work, by what it is over: probes, the calibration's documents, a check

The folder stays when the recipe is written: other budgets of the same measurement then take seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..disk import files as disk
from ..disk.work_folder import WorkFolder, check_apart, marked_command
from ..errors import OutputError
from ..stream import state
from ..words.text import counted

DAMAGE, CHECKS, COLUMNS = "damage.json", "checks.json", "calibrate.cal"
_FILES = (DAMAGE, CHECKS, COLUMNS)
COMMAND = "allocate"


@dataclass(frozen=True)
class AllocateFolder:
    """Where an allocation keeps what it measured."""

    path: Path

    def pass_of(self, what: str) -> Path:
        """The work folder of a pass over `what`; those of other passes, which nothing goes on with, are thrown away."""
        path = self.path / f"pass-{xxhash.xxh3_64_hexdigest(what.encode())}"
        for other in self._passes():
            if other != path:
                state.discard(other, marked_command(other) or state.COMPARE)
        return path

    @property
    def columns(self) -> Path:
        """The calibration file."""
        return self.path / COLUMNS

    @property
    def has_measured(self) -> bool:
        """Whether an earlier run finished a pass here."""
        return disk.is_file(self.path / DAMAGE)

    def check(self, inputs: Iterable[tuple[str, Path]] = ()) -> None:
        """Raise UsageError where an input lies in the folder or holds it, OutputError where it is somebody else's."""
        check_apart(self.path, inputs)
        self._work().check()

    def claimed(self) -> AbstractContextManager[None]:
        """Hold the folder against other allocations. Raises OutputError."""
        return self._work().claimed()

    def empty(self) -> None:
        """Throw away what was measured before, in a folder that is held. Raises OutputError."""
        for path in self._passes():
            state.discard(path, marked_command(path) or state.COMPARE)
        for name in _FILES:
            if (self.path / name).exists():
                disk.remove(self.path / name)

    def discard(self) -> bool:
        """Throw everything away; says whether the folder is gone. Raises OutputError where it is not free."""
        work = self._work()
        with work.claimed():
            self.check()
            self.empty()
            return work.leave()

    def progress(self) -> tuple[str, str]:
        """What an allocation is, and how far it is, as a person reads it; it may be a stranger's file."""
        try:
            record = json.loads(disk.read_regular(self.path / DAMAGE))
            source, probes = str(record["source"]), len(record["kl_nats"])
        except (OSError, ValueError, KeyError, TypeError):
            source, probes = "a checkpoint", 0
        done = f"{counted(probes, 'choice')} measured" if probes else "nothing yet"
        return f"an allocation for {source}", done

    def damage(self, signature: str) -> dict[str, float]:
        """What finished passes measured. Raises OutputError where the folder holds another measurement."""
        path = self.path / DAMAGE
        if not disk.is_file(path):
            return {}
        try:
            record = json.loads(disk.read_regular(path))
            kl = {str(name): float(value) for name, value in record["kl_nats"].items()}
            same = record["signature"] == signature
        except (ValueError, KeyError, TypeError, AttributeError):
            kl, same = {}, False
        if not same:
            raise OutputError(
                f"{path}: was measured on another source, other documents or options, or is damaged; choose another"
                " work folder, or start over with --fresh"
            )
        return kl

    def keep(self, source: str, signature: str, kl: Mapping[str, float]) -> None:
        """Keep what was measured so far, whole."""
        text = json.dumps({"source": source, "signature": signature, "kl_nats": dict(kl)}, indent=1)
        disk.write_whole(self.path / DAMAGE, f"{text}\n".encode(), replace=True)

    def sums(self, what: str, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
        """KL and tokens (recipes, documents) of a finished check over `what`; None where none was finished."""
        entry: Any = self._checks().get(xxhash.xxh3_64_hexdigest(what.encode()))
        try:
            kl, tokens = np.array(entry["kl"], np.float64), np.array(entry["tokens"], np.int64)
        except (KeyError, TypeError, ValueError):
            return None
        return (kl, tokens) if kl.shape == tokens.shape == shape else None

    def keep_sums(self, what: str, kl: NDArray[np.float64], tokens: NDArray[np.int64]) -> None:
        """Keep those of a finished check, beside earlier ones, whole."""
        entry = {"kl": kl.tolist(), "tokens": tokens.tolist()}
        checks = {**self._checks(), xxhash.xxh3_64_hexdigest(what.encode()): entry}
        disk.write_whole(self.path / CHECKS, f"{json.dumps(checks)}\n".encode(), replace=True)

    def _checks(self) -> dict[str, Any]:
        path = self.path / CHECKS
        try:
            checks = json.loads(disk.read_regular(path)) if disk.is_file(path) else {}
        except (OSError, ValueError):
            checks = {}
        return checks if isinstance(checks, dict) else {}

    def _passes(self) -> list[Path]:
        """The work folders of passes that lie here, by their markers."""
        paths = sorted(self.path.glob("pass-*")) if self.path.is_dir() else []
        return [path for path in paths if marked_command(path) in (state.COMPARE, state.CALIBRATE)]

    def _work(self) -> WorkFolder:
        return WorkFolder(
            self.path,
            COMMAND,
            _FILES,
            makes=re.compile("|".join(map(re.escape, _FILES))),
            strangers=True,
            advice="choose another work folder",
            busy=f"{self.path}: another allocation works there right now; wait for it",
        )
