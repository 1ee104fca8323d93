"""OUT.work: the records of a build from its first step to its last, and what the step at work goes on from.

    OUT.work/lock                       says that the folder is mlxquant's (see `disk.work_folder`)
    OUT.work/build.json                 what was asked, and each finished step with the hashes of its files
    OUT.work/documents/PURPOSE.jsonl    the documents of each purpose
    OUT.work/calibration.safetensors    calibrate
    OUT.work/recipe.toml                allocate: the recipe that ships
    OUT.work/allocate.json              allocate: what each choice costs, the contestants, who ships and why
    OUT.work/tolerances.toml            the limits that the build is judged by
    OUT.work/compare.json               compare: OUT beside the contestants, on documents that chose nothing
    OUT.work/validate.json              validate
    OUT.work/report.html                report
    OUT.work/calibrating, comparing     their passes at work, gone when the step is done
    OUT.work/allocating                 what allocate measured, for its step and a budget that is asked for later

The build's own audit is OUT/audit.json, and what convert has not finished lies in OUT.partial. Both are convert's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..allocate import folder as allocate
from ..allocate.folder import AllocateFolder
from ..allocate.shares import ALLOCATE, CALIBRATE, CHECK
from ..builds.write.hashing import sha256
from ..builds.write.partial import Partial
from ..disk import files as disk
from ..disk.work_folder import WorkFolder, check_apart, marked_command
from ..errors import OutputError, UsageError
from ..stream import state

COMMAND = "build"
JUDGE = "judge"
PURPOSES = (CALIBRATE, ALLOCATE, CHECK, JUDGE)
RECORD = "build.json"
CALIBRATION, RECIPE, ALLOCATION = "calibration.safetensors", "recipe.toml", "allocate.json"
TOLERANCES, COMPARISON, VERDICT, PAGE = "tolerances.toml", "compare.json", "validate.json", "report.html"
# work folders of the steps at work, each marked as its own command's
CALIBRATING, ALLOCATING, COMPARING = "calibrating", "allocating", "comparing"
_PASSES = {CALIBRATING: state.CALIBRATE, COMPARING: state.COMPARE}


def document_file(purpose: str) -> str:
    """The name of the file with the documents of a purpose."""
    return f"documents/{purpose}.jsonl"


NAMES = (
    RECORD, CALIBRATION, RECIPE, ALLOCATION, TOLERANCES, COMPARISON, VERDICT, PAGE,
    *map(document_file, PURPOSES),
)  # fmt: skip


class BuildFolder:
    """The work folder of the build `out`."""

    def __init__(self, out: Path) -> None:
        if out.name in ("", ".."):
            raise UsageError(f"{out}: a name for the build's folder expected, such as ./build")
        self.out = out
        self.partial = out.parent / f"{out.name}.partial"
        self.path = out.parent / f"{out.name}.work"

    @property
    def allocating(self) -> AllocateFolder:
        """What allocate measured."""
        return AllocateFolder(self.path / ALLOCATING)

    def file(self, name: str) -> Path:
        """A file of the folder; ``"OUT/audit.json"`` is one of the build."""
        return self.out / name.removeprefix("OUT/") if name.startswith("OUT/") else self.path / name

    def shown(self, name: str) -> str:
        """How a message calls a file."""
        return str(self.file(name))

    def digest(self, name: str) -> str | None:
        """SHA-256 of a file; None where there is none."""
        try:
            return sha256(disk.read_regular(self.file(name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.shown(name)}: cannot be read ({error.strerror}); remove it") from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, in place of an earlier one."""
        path = self.path / name
        disk.make_folder(path.parent)
        disk.write_whole(path, content, replace=True)

    def held_bytes(self) -> int:
        """Bytes of the disk that OUT, OUT.partial and the work take already."""
        folders = [path for path in (self.out, self.partial, self.path) if path.is_dir()]
        files = (file for path in folders for file in path.rglob("*") if disk.is_file(file))
        return sum(file.lstat().st_blocks * 512 for file in files)

    def check(self, inputs: list[tuple[str, Path]]) -> None:
        """Raise UsageError where an input lies in the folder or holds it, OutputError where it is somebody else's."""
        check_apart(self.path, inputs)
        work_folder(self.path).check()
        Partial(self.out).check()
        self.allocating.check()
        for name, command in _PASSES.items():
            state.check_work(self.path / name, (), command)

    @contextmanager
    def claimed(self, *, fresh: bool) -> Iterator[None]:
        """Hold the folder against other runs; with `fresh`, empty it first. Raises OutputError."""
        work = work_folder(self.path)
        with work.claimed():
            if fresh:
                _empty(self.path, work)
            work.own(anew=fresh)
            yield


def work_folder(path: Path) -> WorkFolder:
    """The marked folder at a path."""
    return WorkFolder(
        path,
        COMMAND,
        NAMES,
        makes=re.compile("|".join(map(re.escape, NAMES))),
        strangers=True,
        named=True,
        advice="choose another OUT",
        busy=f"{path}: another build works there right now; wait for it, or choose another OUT",
    )


def discard(path: Path) -> bool:
    """Throw the records and the unfinished passes of a build away; OUT stays. Says whether the folder is gone."""
    work = work_folder(path)
    with work.claimed():
        _empty(path, work)
        return work.leave()


def progress_of(path: Path) -> tuple[str, str]:
    """What a build's work is, and how far it is, as a person reads it; it may be a stranger's file."""
    record: Any = None
    try:
        record = json.loads(disk.read_regular(path / RECORD))
        source = record["request"]["source"]["name"]
        steps = [str(step["step"]) for step in record["steps"]]
        what, so_far = f"{path.name.removesuffix('.work')}, of {source}", f"done: {', '.join(steps)}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "a build of an unknown source", "nothing yet"
    return what, so_far if steps else "nothing yet"


def _empty(path: Path, work: WorkFolder) -> None:
    for name, command in _PASSES.items():
        if marked_command(path / name) == command:
            state.discard(path / name, command)
    if marked_command(path / ALLOCATING) == allocate.COMMAND:
        AllocateFolder(path / ALLOCATING).discard()
    work.remove()
