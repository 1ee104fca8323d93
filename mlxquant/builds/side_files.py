"""The files of a build beside its weights: config.json, tokenizer, chat template, generation settings.

config.json is the source's with mlx-lm's `quantization` block: the default at the top level, and one entry for
every module that differs from it, always with its mode, `false` for what stays unquantized. mlx-lm infers
unlisted modules from shapes; the version in LM Studio takes the top level for them, so all are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from ..errors import SourceError
from ..layout.carried import VISION, spelled_out
from ..layout.provider import provider_stated
from ..plan.plan import Plan
from ..source.checkpoint import SIDE_SUFFIXES, Checkpoint, is_needed
from ..source.headers import LFS_BEGINNING, LFS_FOUND
from ..source.index import INDEX
from ..source.tokenizer import tokenizer_notes
from .write.hashing import sha256

# Not copied though their suffix is one of SIDE_SUFFIXES: this project's own records, and what describes weights.
_NOT_KEPT = {
    "config.json", INDEX, "hf_quant_config.json", "mlxquant.json", "audit.json", "adapter_config.json",
    "quantize_config.json", "params.json",
}  # fmt: skip
_VISION_FILES = {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}


def config_text(config: Mapping[str, Any], plan: Plan) -> bytes:
    """config.json of the build, keys sorted as mlx-lm writes it."""
    # a class that has a vision tower of its own (muse_spark) needs the config to build it
    sees = _has_tower(plan) or any(m.module.path.startswith("model.vision_tower") for m in plan.modules)
    left_out = {"_name_or_path", "quantization", "quantization_config"} | (set() if sees else {"vision_config"})
    table = {k: v for k, v in config.items() if k not in left_out}
    if VISION in plan.carried:
        table = spelled_out(table)
    if isinstance(text := table.get("text_config"), dict):
        table["text_config"] = {k: v for k, v in text.items() if k not in ("quantization", "quantization_config")}
    block = quantization_block(plan)
    if block:
        table["quantization"] = table["quantization_config"] = block
    return json.dumps(dict(sorted(table.items())), indent=4).encode()


def _has_tower(plan: Plan) -> bool:
    """Whether the build is one that mlx-vlm loads as it is: a tower carried along, or its own class throughout."""
    return VISION in plan.carried or provider_stated(plan.source).whole


def quantization_block(plan: Plan) -> dict[str, Any]:
    """mlx-lm's `quantization` block for a plan; empty where nothing is quantized."""
    formats = {m.module.path: m.format for m in plan.modules if m.module.quantizable}
    used = Counter(f for f in formats.values() if f is not None)
    if not used:
        return {}
    preferred = plan.recipe.default.formats if plan.recipe.default else ()
    top = next((fmt for fmt in preferred if fmt in used), used.most_common(1)[0][0])
    others = {path: f.as_dict() if f else False for path, f in formats.items() if f != top}
    return {**top.as_dict(), **others}


class SideFiles(Mapping[str, bytes]):
    """A source's other files that belong into the build: name -> bytes, read each time, so one is in memory at once.

    Raises SourceError for a file that cannot be read, or is not what it was when it was read first.
    """

    def __init__(self, source: Checkpoint, names: Iterable[str]) -> None:
        self._source, self._names = source, tuple(names)
        self._checksums: dict[str, str] = {}

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names or self._source.reader is None:
            raise KeyError(name)
        try:
            data = self._source.reader.read_whole(name)
        except OSError as error:
            raise SourceError(f"{name}: cannot be read ({error.strerror})") from None
        if data.startswith(LFS_BEGINNING):
            raise SourceError(f"{name}: {LFS_FOUND}")
        if not data and is_needed(name):
            raise SourceError(f"{name}: 0 bytes, where a tokenizer needs it; download it again")
        checksum = xxhash.xxh3_64_hexdigest(data)
        if self._checksums.setdefault(name, checksum) != checksum:
            raise SourceError(f"{name}: changed while it was read; run the same command again")
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_sides(source: Checkpoint, plan: Plan, *, trust_remote_code: bool) -> Mapping[str, bytes]:
    """Find the source's other files that belong into the build: name -> bytes. Raises SourceError."""
    if source.reader is None:
        return {}
    vision = _has_tower(plan)
    try:
        names = side_files(source.reader.listing(), trust_remote_code=trust_remote_code, vision=vision)
    except OSError as error:
        raise SourceError(f"{Path(str(error.filename)).name}: cannot be read ({error.strerror})") from None
    return SideFiles(source, names)


def side_notes(source: Checkpoint, copied: Collection[str], *, trust_remote_code: bool) -> tuple[str, ...]:
    """Say what the build lacks of the source's tokenizer: none at all, its own code, files of unknown kinds."""
    if source.reader is None:
        return ()
    notes = tokenizer_notes(
        source.reader.listing(), copied, source.reader.read_whole, trust_remote_code=trust_remote_code
    )
    return tuple(notes)


def hashed_files(source: Checkpoint, sides: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of the source's small files: its config, its index, and `sides`."""
    files = [sides]
    if source.reader is not None:
        files.append(SideFiles(source, {"config.json", INDEX}.intersection(source.reader.listing())))
    entries = (file for each in files for file in each.items())  # one at a time, as they may be large
    return {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in entries}


def side_files(names: Iterable[str], *, trust_remote_code: bool, vision: bool = False) -> list[str]:
    """The source's other files that belong into the build, sorted; image processors' only with `vision`."""
    found = []
    unwanted = _NOT_KEPT if vision else _NOT_KEPT | _VISION_FILES
    for name in sorted(names):
        # by lower case: on macOS "Audit.json" would be the same file as ours
        if name.startswith(".") or name.lower() in unwanted or name.endswith(".index.json"):
            continue
        suffix = Path(name).suffix
        if suffix in SIDE_SUFFIXES or (suffix == ".py" and trust_remote_code):
            found.append(name)
    return found
