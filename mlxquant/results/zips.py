"""A zip of JSON, read without trust: a bounded number of members, each of a bounded size, nothing written to disk.

A zip of a few kilobytes can unpack to petabytes, name one member a million times, or lie about sizes; so bytes are
counted while they come out, not as the zip states them. inspect_ai packs by Zstandard, which Python's zipfile knows
from 3.14 on; before that `backports.zstd` unpacks it.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..disk.files import LARGEST, open_regular
from ..errors import RecordError

MEMBERS = 1_000_000
MEMBER_BYTES = 1 << 28
_ZSTD = 93
_LOCAL = struct.Struct("<4s22xHH")  # what stands before a member: signature, …, length of its name, of its extra field
_PIECE = 1 << 16


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Archive:
    """The members of a zip. Raises RecordError for what is none, or holds more than is read."""

    def __init__(self, path: Path) -> None:
        """Read the zip's directory."""
        self.path, self._total = path, 0
        try:
            self._file: BinaryIO = open_regular(path)
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error) as error:
            self._file.close()
            raise RecordError(f"{path}: a damaged zip ({error}); was the run ended while it wrote?") from None
        self._members = {info.filename: info for info in self._zip.infolist()}
        if len(self._members) > MEMBERS:
            raise RecordError(f"{path}: {len(self._members):,} members; at most {MEMBERS:,} are read")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    @property
    def names(self) -> list[str]:
        """Names of its members, each once, in order."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises RecordError where it is damaged, encrypted, too large, or packed in another way."""
        info = self._members[name]
        data = bytearray()
        try:
            for piece in self._pieces(info):
                data += piece
                self._total += len(piece)
                if len(data) > MEMBER_BYTES or self._total > 4 * LARGEST:
                    raise RecordError(
                        f"{self.path}: {name[:80]} unpacks to more than {MEMBER_BYTES:,} bytes, or all to more than"
                        f" {4 * LARGEST:,}; that is no log"
                    )
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error) as error:
            raise RecordError(f"{self.path}: {name[:80]} is damaged ({error})") from None
        except (NotImplementedError, RuntimeError) as error:
            raise RecordError(f"{self.path}: {name[:80]} cannot be unpacked: {error}") from None
        return bytes(data)

    def _pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        if info.compress_type == _ZSTD:
            yield from self._zstd_pieces(info)
            return
        with self._zip.open(info) as member:
            while piece := member.read(_PIECE):
                yield piece

    def _zstd_pieces(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """A member's bytes by Zstandard, whose checksum is held against the zip's."""
        if info.flag_bits & 1:
            raise RuntimeError("it is encrypted")
        self._file.seek(info.header_offset)
        signature, name, extra = _LOCAL.unpack(self._file.read(_LOCAL.size))
        if signature != b"PK\x03\x04":
            raise zipfile.BadZipFile("no member where the directory says")
        self._file.seek(name + extra, 1)
        (decompressor, error), left, checksum = _zstd(self.path), info.compress_size, 0
        while not decompressor.eof:
            data = b""
            if decompressor.needs_input:
                data = self._file.read(min(left, _PIECE))
                if not data:
                    raise EOFError("cut off")
                left -= len(data)
            try:
                piece = decompressor.decompress(data, _PIECE)
            except error as reason:
                raise zipfile.BadZipFile(str(reason)) from None
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if checksum != info.CRC:
            raise zipfile.BadZipFile("its checksum is another")


def _zstd(path: Path) -> tuple[_Decompressor, type[Exception]]:
    """A decompressor, and what it raises."""
    module: Any
    try:
        from compression import zstd as module  # type: ignore[import-not-found,unused-ignore,no-redef]
    except ImportError:
        try:
            from backports import zstd as module  # type: ignore[import-not-found,unused-ignore,no-redef]
        except ImportError:
            raise RecordError(
                f"{path}: packed by Zstandard; pip install backports.zstd, or let inspect_ai write JSON (inspect log"
                " convert --to json)"
            ) from None
    return module.ZstdDecompressor(), module.ZstdError
