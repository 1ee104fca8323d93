"""Packed sources: mlxquant's floats beside those of the library that packed them, by architecture and format.

    .venv/bin/python -m benchmarks.source_formats.parity --producer ENV/bin/python -o results.json

Tiny bf16 checkpoints are packed by the producers' own libraries in an environment of their own (`produce.py`, or for
GPTQ and AWQ `produce_transposed.py`, whose libraries want other versions), which
dequantize them with their own code too. mlxquant converts the packed checkpoint and the dequantized one with the recipe
`none`; both builds must be the same, byte for byte, or the largest difference is given. Where a class of mlx-lm keeps
the packed bits as they are, those are dequantized by mlx in float32 and rounded to bf16 first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlxquant.layout.views.bytes import MLX_DTYPES, to_mlx
from mlxquant.records.head import head
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, config_of, stored

ARCHITECTURES = ("qwen3_moe", "deepseek_v3")
SCHEMA = "mlxquant.source_formats/1"


def floats(folder: Path) -> dict[str, mx.array]:
    """A build's arrays, packed ones as the numbers that mlx's formats mean."""
    arrays = {
        n: to_mlx(np.frombuffer(data, np.uint8), shape, MLX_DTYPES[d]) for n, (d, shape, data) in stored(folder).items()
    }
    forms = config_of(folder).get("quantization", {})
    for name in [n for n in arrays if n.endswith(".scales")]:
        path = name.removesuffix(".scales")
        form = forms.get(path, forms)
        parts = [arrays.pop(f"{path}.{part}", None) for part in ("weight", "scales", "biases")]
        packed, scales, biases = (
            p.astype(mx.float32) if p is not None and mx.issubdtype(p.dtype, mx.floating) else p for p in parts
        )
        wide = mx.dequantize(
            packed, scales, biases, form["group_size"], form["bits"], form.get("mode", "affine"), dtype=mx.float32
        )
        arrays[f"{path}.weight"] = wide.astype(mx.bfloat16)
    return arrays


def row(architecture: str, folder: Path, producer: str) -> dict[str, Any]:
    """One format of one architecture: how many arrays differ, and by how much of their largest value."""
    made = {}
    for side in ("packed", "meant"):
        build(folder / side, folder / f"{side}-build", "none")
        made[side] = floats(folder / f"{side}-build")
    ours, theirs = made["packed"], made["meant"]
    assert ours.keys() == theirs.keys(), f"{folder.name}: the builds have other arrays"
    largest, differing, signs = 0.0, 0, 0
    for name, array in ours.items():
        left, right = array.astype(mx.float32), theirs[name].astype(mx.float32)
        signs += not mx.array_equal(left.view(mx.uint32), right.view(mx.uint32)).item()
        if not mx.array_equal(left, right).item():
            differing += 1
            share = mx.max(mx.abs(left - right)) / mx.max(mx.abs(right))
            largest = max(largest, float(share.item()))
    kept = any(name.endswith(".scales") for name in stored(folder / "packed-build"))
    return {
        "architecture": architecture,
        "format": folder.name,
        "producer": producer,
        "arrays": len(ours),
        "differing": differing,
        "differing_in_the_sign_of_zeros": signs - differing,
        "largest_difference": largest,
        "kept_by_class": kept,
    }


def rows(producer: Path, script: Path, work: Path) -> Iterator[dict[str, Any]]:
    """Every format of every architecture that a script makes."""
    for architecture in ARCHITECTURES:
        source, folder = work / architecture, work / f"{architecture}-packed"
        write_tiny(source, architecture, Size(layers=2, experts=4))
        folder.mkdir()
        subprocess.run([producer, script, source, folder], check=True)
        made = json.loads((folder / "producers.json").read_text())
        for name, library in made["formats"].items():
            yield row(architecture, folder / name, f"{library}, torch {made['torch']}")


def main() -> None:
    """Print the table, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--producer", type=Path, required=True, help="python of an environment with the libraries")
    parser.add_argument("--script", default="produce.py", help="what makes the checkpoints, in this folder")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        script = Path(__file__).with_name(arguments.script)
        results = list(rows(arguments.producer.absolute(), script, Path(work)))
    print("| architecture | format | by | arrays | |\n|---|---|---|--:|---|")
    for r in results:
        verdict = (
            ("equal but for the sign of zeros" if r["differing_in_the_sign_of_zeros"] else "byte-identical")
            if not r["differing"]
            else f"{r['differing']} differ, by {r['largest_difference']:.2%} at most"
        )
        kept = ", kept packed by the class" if r["kept_by_class"] else ""
        print(f"| {r['architecture']} | {r['format']} | {r['producer']} | {r['arrays']} | {verdict}{kept} |")
    if arguments.output:
        arguments.output.write_text(json.dumps({**head(SCHEMA), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
