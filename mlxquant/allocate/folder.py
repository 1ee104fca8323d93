"""The work folder of an allocation: what is kept there, what is refused, what may be deleted.

    FOLDER/lock            says that the folder is mlxquant's (see `disk.work_folder`); other files there are left alone
    FOLDER/damage.json     the KL of every probe whose pass is finished
    FOLDER/calibrate.cal   what enters the modules, where the method needs it and nobody gave it
    FOLDER/pass            the pass that is at work: over probes, over the calibration's documents, or the final check

The folder stays when the recipe is written: other budgets of the same measurement then take seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..disk import files as disk
from ..disk.work_folder import WorkFolder, check_apart, marked_command
from ..errors import OutputError
from ..stream import state
from ..words.text import counted

DAMAGE, COLUMNS = "damage.json", "calibrate.cal"
COMMAND = "allocate"


@dataclass(frozen=True)
class AllocateFolder:
    """Where an allocation keeps what it measured."""

    path: Path

    @property
    def passing(self) -> Path:
        """The work folder of a pass."""
        return self.path / "pass"

    @property
    def columns(self) -> Path:
        """The calibration file."""
        return self.path / COLUMNS

    def check(self, inputs: Iterable[tuple[str, Path]] = ()) -> None:
        """Raise UsageError where an input lies in the folder or holds it, OutputError where it is somebody else's."""
        check_apart(self.path, inputs)
        self._work().check()
        if marked_command(self.passing) != state.CALIBRATE:
            state.check_work(self.passing, ())

    def claimed(self) -> AbstractContextManager[None]:
        """Hold the folder against other allocations. Raises OutputError."""
        return self._work().claimed()

    def empty(self) -> None:
        """Throw away what was measured before, in a folder that is held. Raises OutputError."""
        command = marked_command(self.passing)
        if command is not None:
            state.discard(self.passing, command)
        for name in (DAMAGE, COLUMNS):
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

    def _work(self) -> WorkFolder:
        return WorkFolder(
            self.path,
            COMMAND,
            [DAMAGE, COLUMNS],
            makes=re.compile("|".join(map(re.escape, (DAMAGE, COLUMNS)))),
            strangers=True,
            advice="choose another work folder",
            busy=f"{self.path}: another allocation works there right now; wait for it",
        )
