"""Making small builds in tests, and looking at their bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mlxquant.builds.write.convert import Converted, ConvertOptions, convert
from mlxquant.kernels import Encoder
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.progress import Progress

# A tensor as it lies in a file: dtype, shape, bytes
Stored = tuple[str, tuple[int, ...], bytes]


def build(
    source: Path,
    out: Path,
    recipe: Recipe | str = "gates-8bit",
    watch: Callable[[Progress], None] = lambda _: None,
    keep: Collection[str] = (),
    encoder: Encoder | None = None,
    provider: str | None = None,
    **options: Any,
) -> Converted:
    """Convert a checkpoint as the command does. A recipe's name means group 32, since tiny models are narrow."""
    if isinstance(recipe, str):
        recipe = load_recipe(recipe) if recipe == "none" else load_recipe(recipe, group_size=32, unaligned="keep")
    opened = open_checkpoint(source)
    layout = read_layout(opened, dtype=options.get("dtype"), keep=keep, provider=provider)
    plan = make_plan(layout, recipe, opened)
    return convert(opened, layout, plan, out, ConvertOptions(**{"threads": 2, **options}), watch, encoder=encoder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes; of the manifest all but the `run` section, which alone may differ between two runs."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    if "mlxquant.json" in files:
        manifest = json.loads(files["mlxquant.json"])
        del manifest["run"]
        files["mlxquant.json"] = json.dumps(manifest).encode()
    return files


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder's shards, name -> dtype, shape, bytes, read without any library."""
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                begin, end = (8 + length + at for at in entry["data_offsets"])
                found[name] = entry["dtype"], tuple(entry["shape"]), data[begin:end]
    return found


def config_of(folder: Path) -> dict[str, Any]:
    """The config.json of a build or a checkpoint."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def patch(folder: Path, tensor: str, values: bytes, at: int = 0) -> str:
    """Overwrite bytes of a tensor of a checkpoint, from its byte `at` on. Gives the file's name."""
    for path in sorted(folder.glob("model*.safetensors")):
        data = bytearray(path.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        entry = json.loads(data[8 : 8 + length]).get(tensor)
        if entry:
            start = 8 + length + entry["data_offsets"][0] + at
            data[start : start + len(values)] = values
            path.write_bytes(data)
            return path.name
    raise KeyError(tensor)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def place_of(folder: Path, tensor: str) -> tuple[Path, int]:
    """The file and first byte of a tensor."""
    for path in folder.glob("model*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        if entry := json.loads(data[8 : 8 + length]).get(tensor):
            return path, 8 + length + entry["data_offsets"][0]
    raise KeyError(tensor)
