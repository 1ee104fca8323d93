"""Every quantization that mlx has: the bytes of mlx_lm.convert, and a build that mlx-lm loads with strict names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxquant.layout.layout import read_layout
from mlxquant.plan.predicate import quant_predicate, quantize_arguments
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.formats import MODES, Format
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, config_of, stored

FORMATS = [
    Format(bits, group, mode) for mode, (groups, all_bits) in MODES.items() for group in groups for bits in all_bits
]

MIXED = """
name = "mixed"
summary = "Every mode in one build"
[quantize]
bits = 4
group_size = 64
[[rules]]
match = { role = "attention" }
mode = "mxfp8"
bits = 8
group_size = 32
reason = "one mode"
[[rules]]
match = { path = "*.up_proj" }
mode = "nvfp4"
bits = 4
group_size = 16
reason = "another"
[[rules]]
match = { path = "*.down_proj" }
mode = "mxfp4"
bits = 4
group_size = 32
reason = "a third"
[[rules]]
match = { role = "embedding" }
bits = 5
group_size = 128
reason = "an odd number of bits"
[[rules]]
match = { role = "lm_head" }
bits = 3
group_size = 32
reason = "few of them"
[[rules]]
match = { role = "router" }
keep = true
reason = "as it was"
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Give a Qwen3-MoE of one layer: 1.2 MB with all its parts, every width a multiple of 128."""
    folder: Path = tmp_path_factory.mktemp("modes") / "source"
    write_tiny(folder, "qwen3_moe", Size(layers=1, experts=4))
    return folder


def converted(source: Path, out: Path, **options: Any) -> Path:
    """What mlx_lm.convert makes of a checkpoint."""
    from mlx_lm.convert import convert

    convert(str(source), str(out), quantize=True, **options)
    return out


def loaded(build: Path) -> dict[str, Format]:
    """The format of every quantized module of a build, once mlx-lm has loaded it with strict names."""
    from mlx_lm.utils import load_model

    model, _ = load_model(build, strict=True)
    return {path: Format(m.bits, m.group_size, m.mode) for path, m in model.named_modules() if "scales" in m}


# Every group size and mode, and bits of each kind; the rest of bits × group size is slow, since each compiles a kernel
OFTEN = {Format(bits, group) for bits, group in ((3, 32), (4, 32), (6, 128), (8, 64))}


@pytest.mark.parametrize(
    "fmt",
    [pytest.param(f, marks=() if f.mode != "affine" or f in OFTEN else pytest.mark.slow, id=str(f)) for f in FORMATS],
)
def test_a_format_has_mlx_lms_bytes_and_loads_there(source, fmt, tmp_path):
    recipe = load_recipe("uniform-8bit", bits=fmt.bits, group_size=fmt.group_size, mode=fmt.mode)
    build(source, tmp_path / "ours", recipe)
    options = {"q_bits": fmt.bits, "q_group_size": fmt.group_size, "q_mode": fmt.mode}
    theirs = converted(source, tmp_path / "theirs", quant_predicate=lambda _, m: hasattr(m, "to_quantized"), **options)
    assert stored(tmp_path / "ours") == stored(theirs)
    assert set(loaded(tmp_path / "ours").values()) == {fmt}


def test_all_modes_in_one_build_have_mlx_lms_bytes_and_load_there(source, tmp_path):
    (tmp_path / "mixed.toml").write_text(MIXED)
    recipe = load_recipe(str(tmp_path / "mixed.toml"))
    build(source, tmp_path / "ours", recipe)
    layout = read_layout(open_checkpoint(source))
    predicate = quant_predicate(recipe, layout.modules, n_layers=layout.n_layers)
    theirs = converted(source, tmp_path / "theirs", quant_predicate=predicate, **quantize_arguments(recipe))
    assert stored(tmp_path / "ours") == stored(theirs)
    ours = loaded(tmp_path / "ours")
    assert ours == loaded(theirs)
    assert {str(f) for f in ours.values()} == {
        "4-bit g64",
        "mxfp8 g32",
        "nvfp4 g16",
        "mxfp4 g32",
        "5-bit g128",
        "3-bit g32",
    }


def test_whatever_differs_from_the_top_of_the_config_is_listed_with_its_mode(source, tmp_path):
    (tmp_path / "mixed.toml").write_text(MIXED)
    build(source, tmp_path / "out", load_recipe(str(tmp_path / "mixed.toml")))
    block = config_of(tmp_path / "out")["quantization"]
    assert {k: block[k] for k in ("bits", "group_size", "mode")} == {"bits": 4, "group_size": 64, "mode": "affine"}
    entries = {path: entry for path, entry in block.items() if path not in ("bits", "group_size", "mode")}
    assert entries["model.layers.0.mlp.gate"] is False
    assert all(entry is False or set(entry) == {"bits", "group_size", "mode"} for entry in entries.values())
    listed = {path: Format.from_dict(entry) for path, entry in entries.items() if entry}
    assert listed == {path: fmt for path, fmt in loaded(tmp_path / "out").items() if fmt != Format(4, 64)}


@pytest.mark.parametrize("fmt", [Format(4, 64), Format(8, 32, "mxfp8"), Format(4, 16, "nvfp4")], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_scales_and_kept_weights_are_of_the_dtype_asked_for(source, fmt, dtype, tmp_path):
    recipe = load_recipe("uniform-8bit", bits=fmt.bits, group_size=fmt.group_size, mode=fmt.mode)
    build(source, tmp_path / "ours", recipe, dtype=dtype)
    options = {"q_bits": fmt.bits, "q_group_size": fmt.group_size, "q_mode": fmt.mode, "dtype": dtype}
    theirs = converted(source, tmp_path / "theirs", quant_predicate=lambda _, m: hasattr(m, "to_quantized"), **options)
    assert stored(tmp_path / "ours") == stored(theirs)
