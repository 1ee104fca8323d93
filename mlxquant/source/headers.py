"""The headers of safetensors files, checked as if a stranger had written them.

A file is 8 bytes of header length (little endian), a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors, "Format"). Nothing here reads a weight: a header that passes
`parse_header` names tensors whose bytes lie inside the file, side by side, each as long as its shape says.
What it does not do: open files, follow an index (see `checkpoint`).
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

from ..errors import SourceError
from ..records.files import unique_keys
from ..words.formats import DTYPES
from ..words.strict_json import deeper_than

# The limit of the safetensors library itself; a longer header is refused there too.
MAX_HEADER_BYTES = 100_000_000
# How a pointer begins, which git leaves where LFS is not installed; as a length it would be 2.3e18.
LFS_POINTER = b"version "
LFS_BEGINNING = b"version https://git-lfs"
LFS_FOUND = "a Git LFS pointer to the file found, not the file; fetch it with `git lfs pull`"
# numpy's limit; a product over more lengths than this is a way to keep a reader busy, not a tensor.
MAX_AXES = 64
MAX_NAME = 1000
# Tables within tables of a JSON file; configs have five or so, and code that walks them may recurse.
MAX_DEPTH = 50
# What helps a checkpoint that was damaged on its way; of a build that is checked, other things may be true.
DOWNLOAD_AGAIN = "download it again"

# What fills a buffer with bytes of a file: (file, first byte, buffer), as Checkpoint.read_into
Read = Callable[[str, int, memoryview], None]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: `nbytes` bytes from byte `start` of `file`, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of: itself, unless it is `packed.Decoded`."""
        return (self,)

    @property
    def storage(self) -> str:
        """What its values are stored in: its dtype, or what a packed one is packed in."""
        return self.dtype

    def read_into(self, read: Read, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of its values from byte `start` of them on; `read` brings what is stored."""
        read(self.file, self.start + start, buffer)


def load_json(text: str | bytes, where: str, *, duplicates: bool = False) -> dict[str, Any]:
    """Parse a JSON object, refusing other values, absurd nesting and, unless `duplicates`, keys that stand twice.

    Raises SourceError naming `where`.
    """
    if (text if isinstance(text, bytes) else text.encode("utf-8", "replace")).startswith(LFS_BEGINNING):
        raise SourceError(f"{where}: {LFS_FOUND}")
    if not text.strip():
        raise SourceError(f"{where}: not readable as JSON (it is empty)", advice=DOWNLOAD_AGAIN)
    try:
        value = json.loads(text, object_pairs_hook=None if duplicates else unique_keys)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not readable as JSON ({shown(error)})", advice=DOWNLOAD_AGAIN) from None
    if not isinstance(value, dict):
        raise SourceError(f"{where}: a JSON object expected, {type(value).__name__} found", advice=DOWNLOAD_AGAIN)
    if deeper_than(value, MAX_DEPTH):
        raise SourceError(f"{where}: tables within tables more than {MAX_DEPTH} deep", advice=DOWNLOAD_AGAIN)
    return value


def header_length(prefix: bytes, file: str, file_size: int) -> int:
    """The header's length from a file's first 8 bytes, checked against the file's size."""
    if len(prefix) < 8 or file_size < 8:
        raise SourceError(
            f"{file}: at least 8 bytes expected, {min(len(prefix), file_size)} found", advice=DOWNLOAD_AGAIN
        )
    if prefix[:8] == LFS_POINTER:
        raise SourceError(f"{file}: weights expected, a Git LFS pointer to them found; fetch them with `git lfs pull`")
    length = int.from_bytes(prefix[:8], "little")
    if length > file_size - 8:
        raise SourceError(
            f"{file}: its header claims {length:,} bytes, but the file has {file_size:,}", advice=DOWNLOAD_AGAIN
        )
    if length > MAX_HEADER_BYTES:
        raise SourceError(f"{file}: a header of {length:,} bytes; safetensors allows {MAX_HEADER_BYTES:,}")
    return length


def parse_header(text: bytes, file: str, file_size: int) -> tuple[list[Tensor], dict[str, str]]:
    """Read the tensors and metadata of one file from its header's text.

    Raises SourceError, naming file and tensor, for anything that safetensors itself forbids: an unknown
    dtype, a length that contradicts the shape, bytes outside the file, overlaps, holes.
    """
    # a tensor's entry has three brackets in 45 bytes or more; far denser text is built to blow up when parsed
    if text.count(b"[") + text.count(b"{") > len(text) // 6 + 8:
        raise SourceError(f"{file}: header: entries of tensors expected, nested lists found", advice=DOWNLOAD_AGAIN)
    header = load_json(text, f"{file}: header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise SourceError(f"{file}: its __metadata__ is not a table of strings", advice=DOWNLOAD_AGAIN)
    data_start = 8 + len(text)
    tensors = [_tensor(name, entry, file, data_start) for name, entry in header.items()]
    check_placement(tensors, file, data_start, file_size)
    return tensors, metadata


def check_placement(tensors: Sequence[Tensor], file: str, data_start: int, file_size: int) -> None:
    """Check that tensors tile the file's data without overlap or hole, and that the file is as long as that."""
    at, before = data_start, None
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        if tensor.start < at:
            raise SourceError(f"{file}: tensors {before} and {tensor.name} overlap", advice=DOWNLOAD_AGAIN)
        if tensor.start > at:
            raise SourceError(
                f"{file}: {tensor.start - at:,} bytes before {tensor.name} belong to no tensor", advice=DOWNLOAD_AGAIN
            )
        at, before = tensor.start + tensor.nbytes, tensor.name
    if at != file_size:
        raise SourceError(f"{file}: {at:,} bytes expected, {file_size:,} found", advice=DOWNLOAD_AGAIN)


def _tensor(name: str, entry: Any, file: str, data_start: int) -> Tensor:
    where = f"{file}: tensor {shown(name)}"
    if not name.isprintable() or len(name) > MAX_NAME:
        raise SourceError(f"{where}: its name is not a printable text of up to {MAX_NAME:,} letters")
    if not isinstance(entry, dict):
        raise SourceError(f"{where}: its entry is not a table", advice=DOWNLOAD_AGAIN)
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise SourceError(f"{where}: dtype {shown(dtype)} is unknown; use a repository in one of {', '.join(DTYPES)}")
    if not _naturals(shape, MAX_AXES):
        raise SourceError(f"{where}: shape {shown(shape)} is not a list of lengths", advice=DOWNLOAD_AGAIN)
    if not _naturals(offsets, 2) or len(offsets) != 2:
        raise SourceError(f"{where}: data_offsets {shown(offsets)} are not two positions", advice=DOWNLOAD_AGAIN)
    begin, end = offsets
    size = prod(shape) * DTYPES[dtype].nbytes
    if end - begin != size:
        raise SourceError(
            f"{where}: {dtype} {shown(shape)} takes {shown(f'{size:,}')} bytes, its data_offsets span {end - begin:,}",
            advice=DOWNLOAD_AGAIN,
        )
    return Tensor(name, dtype, tuple(shape), file, data_start + begin, size)


def _naturals(value: Any, most: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) <= most and all(type(v) is int and 0 <= v < 1 << 63 for v in value)


def shown(value: object, limit: int = 80) -> str:
    """A stranger's value in a message: one line, printable, short."""
    text = str(value)[: limit + 1] if isinstance(value, (str, Exception)) else reprlib.repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
