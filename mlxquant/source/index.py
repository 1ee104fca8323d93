"""The index of a checkpoint, held against the headers of its shards.

An index says which shard holds which tensor. mlx-lm never reads it: it loads every `model*.safetensors`. So an index
can be out of date (copied from another repository, or not written anew after a fine-tune) without anybody noticing.
What counts here are the headers. Where they settle beyond doubt what mlx-lm would load, a wrong index is a note:

- it names shards that are not there, but those that are there hold every tensor that it lists;
- it lists a tensor for another shard than the one that holds it, or lists a name twice;
- it leaves out a tensor of a shard that it names, or has no weight_map at all.

Where they do not, it is refused: a tensor that no shard holds, a tensor in two shards (which of the two values loads
is chance), a whole shard of which it knows nothing, a number missing in a series of shards.

Not here: how a header is parsed (`headers`), or what a folder without shards holds instead (`foreign`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import SourceError
from ..words.text import listed, some
from .headers import Tensor, load_json, shown
from .links import is_template

INDEX = "model.safetensors.index.json"
SHARDS = "model*.safetensors"

# Shards that an index numbers; more of them are no checkpoint that anyone has.
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d{1,9})-of-(?P<count>\d{1,9})\.safetensors")
MAX_SHARDS = 100_000
_STRAY = "is not in the index, yet mlx-lm would load it; move it away or mend the index"
# What a file on its way is called until it is whole: NAME with one of these behind it.
_UNFINISHED = (".incomplete", ".part", ".partial", ".tmp", ".aria2", ".crdownload", ".mlxquant-part")


@dataclass(frozen=True, slots=True)
class Index:
    """An index as it was read: tensor -> file, and what is wrong with its form alone."""

    files: Mapping[str, str]
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gathered:
    """The shards' headers put together: tensors by name, sizes of files, and what a user should know."""

    tensors: dict[str, Tensor]
    files: dict[str, int]
    notes: tuple[str, ...] = ()


def is_shard(file: str) -> bool:
    """Whether mlx-lm would load weights from a file of this name."""
    return fnmatchcase(file, SHARDS)


def plain_name(file: object) -> bool:
    """Whether a file name stays inside its folder, on any system."""
    return isinstance(file, str) and file.isprintable() and file not in ("", ".", "..") and not set("/\\:") & set(file)


def build_name(file: object) -> bool:
    """Whether a name is one that a build's file may have: plain, or that of a named chat template."""
    return plain_name(file) or (isinstance(file, str) and is_template(file))


def read_index(text: bytes) -> Index:
    """Read an index. Raises SourceError where it is no JSON, or names a file that is no shard beside it."""
    faults = list[str]()
    try:
        table = load_json(text, INDEX)
    except SourceError:
        table = load_json(text, INDEX, duplicates=True)
        faults.append("it lists a name twice")
    weight_map = table.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return Index({}, (*faults, "it has no weight_map"))
    outside = sorted({shown(f) for f in weight_map.values() if not plain_name(f) and not _in_subfolder(f)})
    if outside:
        raise SourceError(f"{INDEX}: points outside its folder: {', '.join(outside[:3])}; do not trust this checkpoint")
    others = sorted({shown(f) for f in weight_map.values() if not f.endswith(".safetensors")})
    if others:
        raise SourceError(f"{INDEX}: files of type safetensors expected, {', '.join(others[:3])} found")
    if below := sorted({shown(f) for f in weight_map.values() if "/" in f}):
        folder = below[0].rpartition("/")[0]
        raise SourceError(
            f"{INDEX}: names shards in a subfolder ({some(below, 2)}); mlx-lm reads those beside config.json alone:"
            f" move the files of {folder}/ there, and remove the index or take {folder}/ out of it"
        )
    return Index(weight_map, tuple(faults))


def gather_tensors(
    where: str, index: Index | None, present: Iterable[str], header_of: Callable[[str], tuple[list[Tensor], int]]
) -> Gathered:
    """Put the headers of shards together, those that the index names and those that mlx-lm would load.

    `present` are the names of all files there; `header_of` reads one file's header. Raises SourceError listing every
    damaged, missing or doubtful file.
    """
    names = set(present)
    shards = sorted(file for file in names if is_shard(file))
    listed_files = sorted(set(index.files.values())) if index is not None else []
    if not shards and not names.intersection(listed_files):
        if listed_files:
            raise SourceError(f"{where}: {INDEX} names {some(listed_files, 3)}, none is there; download them")
        raise SourceError(f"{where}: no {SHARDS} in it; is it a checkpoint?")
    reading = _Reading(index.files if index is not None else {}, listed_files, shards, names)
    reading.read(header_of)
    if problems := [*reading.problems, *reading.doubts()]:
        raise SourceError(listed(problems))
    faults = [*(index.faults if index is not None else ()), *reading.faults()]
    return Gathered(reading.tensors, reading.files, _note(faults, sorted(reading.files)))


class _Reading:
    """The headers of one checkpoint's shards, read and compared with its index."""

    def __init__(
        self, index: Mapping[str, str], listed_files: Sequence[str], shards: Sequence[str], names: set[str]
    ) -> None:
        self._index, self._listed, self._names = index, listed_files, names
        self._unlisted = sorted(set(shards) - set(listed_files)) if index else []
        self._shards = shards
        self._missing: dict[str, str] = {}  # a listed file that is not there -> what is said of it
        self.tensors: dict[str, Tensor] = {}
        self.files: dict[str, int] = {}
        self.problems: list[str] = []

    def read(self, header_of: Callable[[str], tuple[list[Tensor], int]]) -> None:
        """Read all headers; what is damaged or stands twice goes to `problems`."""
        for file in sorted({*self._listed, *self._shards}):
            try:
                in_file, size = header_of(file)
            except SourceError as error:
                if file in self._unlisted:
                    self.problems.append(f"{file}: {_STRAY}")
                elif file in self._names:
                    self.problems.append(str(error))
                else:
                    self._missing[file] = self._unfinished(file) or str(error)
                continue
            self.files[file] = size
            twice: dict[str, list[str]] = {}  # another file -> tensors that are in both
            for tensor in in_file:
                if tensor.name in self.tensors:
                    twice.setdefault(self.tensors[tensor.name].file, []).append(tensor.name)
                self.tensors[tensor.name] = tensor
            self.problems += [self._twice(names, file, other) for other, names in twice.items()]

    def doubts(self) -> Iterator[str]:
        """What the headers do not settle: the build could hold other values than the source's author meant."""
        absent = [name for name in self._index if name not in self.tensors]
        if absent:
            yield from self._missing.values()
            yield from self._lost(absent)
        elif not self._index or self._missing or self._unlisted:
            yield from _missing_numbers(sorted(self.files))
        known = {self.tensors[name].file for name in self._index if name in self.tensors}
        for file in self._unlisted:
            if file in self.files and file not in known:
                yield f"{file}: {_STRAY}"

    def faults(self) -> Iterator[str]:
        """Where the index is wrong and the headers settle it."""
        if self._missing:
            yield f"it names {some(sorted(self._missing), 2)}, not there"
        moved = [n for n, file in self._index.items() if file not in self._missing and self.tensors[n].file != file]
        if moved:
            first = moved[0]
            more = f" and {len(moved) - 1:,} more" if len(moved) > 1 else ""
            yield f"it says {shown(first)}{more} is in {self._index[first]}, it is in {self.tensors[first].file}"
        if self._index and (forgotten := sorted(self.tensors.keys() - self._index.keys())):
            yield f"it leaves out {some(forgotten, 2)}"

    def _twice(self, names: Sequence[str], file: str, other: str) -> str:
        stray = next((f for f in (file, other) if f in self._unlisted), None)
        more = f" and {len(names) - 1:,} more are" if len(names) > 1 else " is"
        text = f"{file}: tensor {names[0]}{more} in {other} too"
        if stray is not None:
            text += f"; {stray} {_STRAY}"
        return text

    def _lost(self, absent: Sequence[str]) -> Iterator[str]:
        """Tensors that the index lists and no shard holds, apart from those of missing files."""
        for name in absent:
            if self._index[name] not in self._missing and self._index[name] in self.files:
                file = self._index[name]
                yield f"{file}: tensor {shown(name)} is in the index but not in the file; download both again"
        if self._missing and self._unlisted:
            held = len(self._index) - len(absent)
            yield (
                f"{INDEX}: {some(self._unlisted, 2)} is there and not named in it; {held:,} of the"
                f" {len(self._index):,} tensors that it lists are there; is the index another model's?"
            )

    def _unfinished(self, file: str) -> str:
        """What is said of a missing file of which a part has come; empty if none has."""
        part = next((f"{file}{ending}" for ending in _UNFINISHED if f"{file}{ending}" in self._names), None)
        return f"{file}: its download is not finished ({part} is there); finish it" if part else ""


def _note(faults: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    if not faults:
        return ()
    return (
        f"{INDEX} is wrong: {'; '.join(faults)}. The tensors are taken from the headers of {some(list(files), 2)},"
        " as mlx-lm takes them; each stands there once",
    )


def _missing_numbers(shards: Sequence[str]) -> list[str]:
    """Numbers that files named ``…-00001-of-00003.safetensors`` leave out, where no index says what is needed."""
    series: dict[tuple[str, str], set[int]] = {}
    for file in shards:
        if match := _NUMBERED.fullmatch(file):
            series.setdefault((match["stem"], match["count"]), set()).add(int(match["number"]))
    return [
        f"{stem}-{number:0{len(count)}}-of-{count}.safetensors: is missing; download it"
        for (stem, count), numbers in series.items()
        if int(count) <= MAX_SHARDS
        for number in range(1, int(count) + 1)
        if number not in numbers
    ]


def _in_subfolder(file: object) -> bool:
    """Whether an index's file name leads into a folder beside it, and nowhere else."""
    return isinstance(file, str) and "/" in file and all(plain_name(part) for part in file.split("/"))
