"""A sweep's work folder: what is kept there, what is refused, what may be deleted.

    FOLDER/lock            says that the folder is mlxquant's (see `work_folder`); what else lies there is left alone
    FOLDER/asked.json      what the pass was asked; another question is refused, so that no answer stands for another
    FOLDER/pass            the pass, while it is at work: the same command goes on at the layer that it was in
    FOLDER/compare.json    the record of the comparison, for `sweep --from` with other tolerances
    FOLDER/builds/         one build for each that is evaluated, and the baseline's, all with the same dtype
    FOLDER/eval-*.json     records of evaluations, as `eval` writes them; one for each set of candidates and suites

Who may use the folder is `disk.work_folder`'s; a build is deleted only where its own manifest names all that is in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..builds.manifest import MANIFEST, read_manifest
from ..builds.write import partial
from ..builds.write.partial import BUILD_FILE
from ..disk import files as disk
from ..disk.work_folder import WorkFolder, check_apart, marked_command
from ..errors import BuildError, OutputError
from ..source.links import TEMPLATES
from ..stream import state

# What a question has, by which the folder of a version without markers is known
_QUESTION = {"source", "candidates", "data", "question", "options"}
ASKED, COMPARISON = "asked.json", "compare.json"


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep keeps what it measured."""

    path: Path
    fresh: bool = False

    @property
    def comparison(self) -> Path:
        """The comparison's record."""
        return self.path / COMPARISON

    @property
    def passing(self) -> Path:
        """The work folder of the pass."""
        return self.path / "pass"

    def evaluation(self, digest: str) -> Path:
        """The record of one evaluation: of these candidates, by these suites."""
        return self.path / f"eval-{digest[:8]}.json"

    def build(self, name: str) -> Path:
        """A candidate's build."""
        return self.path / "builds" / re.sub(r"[^A-Za-z0-9._-]+", "-", name)

    def check(self, inputs: Sequence[tuple[str, Path]] = (), names: Sequence[str] = ()) -> None:
        """Raise UsageError where an input lies in the folder or holds it, OutputError where it is somebody else's.

        `names` are the candidates whose builds may be written.
        """
        check_apart(self.path, inputs)
        self._work().check()
        state.check_work(self.passing, ())
        builds = self._builds() if self.fresh else [self.build(name) for name in names]
        for build in builds:
            if os.path.lexists(build):
                _check_build(build)

    def claimed(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold the folder against other sweeps; `shared` with the other ranks of this one. Raises OutputError."""
        return self._work(shared=shared).claimed()

    def empty(self) -> None:
        """Throw away what was measured before: the comparison and the builds. Raises OutputError."""
        for build in self._builds():
            for name in _check_build(build):
                disk.remove(build / name)
            if (build / TEMPLATES).is_dir():
                disk.remove_empty(build / TEMPLATES)
            disk.remove_empty(build)
        if self.comparison.exists():
            disk.remove(self.comparison)

    def discard(self) -> bool:
        """Throw away pass, comparison and builds; records of evaluations stay. Says whether the folder is gone.

        Raises OutputError, before anything is deleted, where another process works there or a build is somebody's.
        """
        work, builds = self._work(), self.path / "builds"
        with work.claimed():
            self.check()
            for build in self._builds():
                _check_build(build)
            if marked_command(self.passing) is not None:
                state.discard(self.passing)
            unfinished = sorted(builds.glob("*.partial")) if builds.is_dir() and not builds.is_symlink() else []
            for folder in unfinished:
                if marked_command(folder) is not None:
                    partial.discard(folder)
            self.empty()
            if builds.is_dir() and not builds.is_symlink():
                disk.remove_empty(builds)
            work.remove()
            return work.leave()

    def progress(self) -> tuple[str, str]:
        """What a sweep is, and how far it is, as a person reads it; it may be a stranger's file."""
        request = self.request()
        source = request.get("source") if isinstance(request, dict) else None
        what = source.get("name") if isinstance(source, dict) else "an unknown source"
        if disk.is_file(self.comparison):
            return f"a sweep over {what}", f"compared; {len(self._builds())} builds kept"
        if marked_command(self.passing) is not None:
            return f"a sweep over {what}", state.progress_of(self.passing)[1]
        return f"a sweep over {what}", "nothing yet"

    def request(self) -> Any:
        """What an earlier pass was asked to measure; None where nothing can be read."""
        return _read(self.path / ASKED)

    def keep(self, path: Path, text: str) -> None:
        """Write a file whole."""
        disk.make_folder(path.parent)
        disk.write_whole(path, (text + "\n").encode(), replace=True)

    def _builds(self) -> list[Path]:
        folder = self.path / "builds"
        return sorted(p for p in folder.iterdir() if not p.name.endswith(".partial")) if folder.is_dir() else []

    def _work(self, *, shared: bool = False) -> WorkFolder:
        return WorkFolder(
            self.path,
            "sweep",
            [ASKED, COMPARISON],
            makes=re.compile("|".join(map(re.escape, (ASKED, COMPARISON)))),
            earlier=_begun_before_markers,
            strangers=True,
            shared=shared,
            advice="choose another work folder",
            busy=f"{self.path}: another sweep works there right now; wait for it",
        )


def _begun_before_markers(folder: Path) -> list[str] | None:
    """The files of a sweep that a version without markers began: it noted its question."""
    note = folder / ASKED
    earlier = _read(note) if disk.is_own(note) else None
    return [ASKED, COMPARISON] if isinstance(earlier, dict) and earlier.keys() == _QUESTION else None


def _check_build(folder: Path) -> list[str]:
    """The files of a build that may be deleted. Raises OutputError where its manifest does not name all of them."""
    manifest = None
    with suppress(BuildError):
        manifest = read_manifest(folder) if folder.is_dir() and not folder.is_symlink() else None
    names = disk.names_below(folder) if manifest is not None else []
    known = {MANIFEST, *manifest["files"]} if manifest is not None else set()
    ours = {name for name in known if BUILD_FILE.fullmatch(name)}  # a manifest may be a stranger's too
    if manifest is None or any(name not in ours or not disk.is_own(folder / name) for name in names):
        raise OutputError(
            f"{folder}: holds what mlxquant did not leave there; move it away, or choose another work folder"
        )
    return [name for name in names if name != MANIFEST] + [MANIFEST]


def _read(path: Path) -> Any:
    try:
        return json.loads(disk.read_regular(path))
    except (OSError, ValueError):
        return None
