"""Shards of a source on the Hub, on the disk only while the steps that read them last (see `staging`).

So a model that no disk here holds can be judged: the pass goes through its layers once, in order, and shards come and
go with them. Without a work folder they go to huggingface_hub's usual cache, whole and to stay. A source that is a
folder here needs none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...disk import files as disk
from ...errors import OutputError
from ...words.units import show_bytes
from ..checkpoint import Reader
from .reader import HubReader

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
                f"{self._folder}: shards on their way and hidden states take up to {show_bytes(room)};"
                f" {show_bytes(free)} are free there; choose a work folder on another disk"
            )
        self._reader.start(self._folder / FOLDER, range(first))

    def release(self, step: int) -> None:
        """Say that a step is done with its shards."""
        if self._reader is not None:
            self._reader.release(step)

    def stop(self) -> None:
        """End downloads that nobody waits for any more."""
        if self._reader is not None:
            self._reader.close()
