"""Builds for the tests of the audit: made by mlx-lm and by us, and ways to damage a copy."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.builds.write.convert import ConvertOptions, convert
from mlxquant.layout.layout import read_layout
from mlxquant.layout.views.bytes import to_mlx, to_numpy
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.hub.open import open_source

INDEX = "model.safetensors.index.json"
Tensors = dict[str, tuple[str, list[int], bytes]]  # name -> dtype, shape, bytes


def made_by_mlx_lm(source: Path, out: Path, **options: Any) -> Path:
    """Convert with mlx_lm.convert and nothing else."""
    from mlx_lm.convert import convert as mlx_lm_convert

    with contextlib.redirect_stdout(io.StringIO()):
        mlx_lm_convert(str(source), str(out), **options)
    return out


def made_by_us(source: Path, out: Path, recipe: Recipe | str, *, keep: tuple[str, ...] = (), **options: Any) -> Path:
    """Convert with a recipe; a name is a shipped one's."""
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    opened = open_source(str(source))
    layout = read_layout(opened, keep=keep)
    convert(opened, layout, make_plan(layout, recipe, opened), out, ConvertOptions(threads=2, **options))
    return out


def copied(build: Path, out: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(build, out)
    return out


def edit_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place."""
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def edit_quantization(build: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the `quantization` block of a config, and its twin with it."""

    def both(config: dict[str, Any]) -> None:
        change(config["quantization"])
        config["quantization_config"] = config["quantization"]

    edit_json(build / "config.json", both)


def edit_tensors(build: Path, change: Callable[[Tensors], Any], *, index: bool = True) -> None:
    """Change the tensors of a build with one shard; with `index`, keep its index in step."""
    path = build / "model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors: Tensors = {}
    for name, entry in header.items():
        begin, end = (start + at for at in entry["data_offsets"])
        tensors[name] = (entry["dtype"], entry["shape"], data[begin:end])
    change(tensors)
    table, at = {}, 0
    for name, (dtype, shape, values) in tensors.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(values)]}
        at += len(values)
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(v for _, _, v in tensors.values()))
    if index:

        def follow(record: dict[str, Any]) -> None:
            record["weight_map"] = dict.fromkeys(sorted(tensors), path.name)
            record["metadata"]["total_size"] = at

        edit_json(build / INDEX, follow)


def older_mla_build(source: Path, build: Path, *, bits: int = 6, group: int = 32) -> Path:
    """Turn a DeepSeek build into one of an mlx-lm that kept kv_b_proj whole, with that in a format of its own."""
    opened = open_source(str(source))
    heads: Tensors = {}
    for name, tensor in opened.weights.items():
        path = name.removesuffix(".weight")
        if path.endswith("kv_b_proj"):
            raw = np.empty(tensor.nbytes, np.uint8)
            tensor.read_into(opened.read_into, 0, raw.data)
            parts = mx.quantize(to_mlx(raw, tensor.shape, mx.bfloat16), group, bits)
            for suffix, dtype, part in zip(("weight", "scales", "biases"), ("U32", "BF16", "BF16"), parts, strict=True):
                heads[f"{path}.{suffix}"] = (dtype, list(part.shape), to_numpy(part).tobytes())

    def join(tensors: Tensors) -> None:
        layers = {name.partition(".self_attn.")[0] for name in tensors if ".embed_q." in name}
        for name in [n for n in tensors if ".embed_q." in n or ".unembed_out." in n]:
            del tensors[name]
        tensors.update({n: t for n, t in heads.items() if n.partition(".self_attn.")[0] in layers})

    def entries(block: dict[str, Any]) -> None:
        for path in [p for p in block if "embed_q" in p or "unembed_out" in p]:
            del block[path]
        block |= {n[:-7]: {"group_size": group, "bits": bits, "mode": "affine"} for n in heads if n.endswith(".weight")}

    edit_tensors(build, join)
    edit_json(build / INDEX, lambda i: i["metadata"].pop("total_parameters"))
    edit_quantization(build, entries)
    return build
