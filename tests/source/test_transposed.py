"""GPTQ and AWQ checkpoints become the builds of the values that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.errors import SourceError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.headers import Tensor
from mlxquant.source.packed import decoded_tensors
from tests.checkpoints import Size, write_tiny
from tests.source.transposed_checkpoints import Transposed, pack, write_transposed
from tests.support.builds import build, stored

FORMS = {
    "gptq 4 bits": Transposed(),
    "gptq 4 bits, v2, asymmetric": Transposed(version="gptq_v2", symmetric=False),
    "gptq 4 bits, act-order": Transposed(act_order=True, group=32, symmetric=False),
    "gptq 3 bits": Transposed(bits=3, symmetric=False),
    "gptq 2 bits": Transposed(bits=2),
    "gptq 8 bits, one group": Transposed(bits=8, group=-1),
    "awq": Transposed(method="awq", symmetric=False),
    "awq, symmetric, g128": Transposed(method="awq", group=128),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    write_tiny(folder, "qwen3_moe", Size(layers=1, experts=4))
    return folder


@pytest.mark.parametrize("name", FORMS)
def test_a_checkpoint_becomes_the_build_of_the_values_it_stands_for(name: str, qwen: Path, tmp_path: Path) -> None:
    write_transposed(qwen, tmp_path / "packed", FORMS[name], twin=tmp_path / "twin")
    build(tmp_path / "packed", tmp_path / "ours", "none")
    build(tmp_path / "twin", tmp_path / "theirs", "none")
    assert stored(tmp_path / "ours") == stored(tmp_path / "theirs")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.data())
def test_any_run_of_values_is_read_alone(name: str, data: st.DataObject) -> None:
    how = FORMS[name]
    weight = np.random.default_rng(1).normal(size=(64, 128)).astype(np.float32)
    parts, values = pack(weight, how, 7)
    raw, tensors, at = b"", {}, 0
    for part, (dtype, shape, content) in parts.items():
        tensors[f"x.{part}"] = Tensor(f"x.{part}", dtype, shape, "f", at, len(content))
        raw, at = raw + content, at + len(content)

    def read(_: str, start: int, buffer: memoryview) -> None:
        buffer[:] = raw[start : start + len(buffer)]

    floats = decoded_tensors({"quantization_config": how.settings}, tensors)["x.weight"]
    first = data.draw(st.integers(0, values.size - 1))
    count = data.draw(st.integers(1, values.size - first))
    out = np.empty(count, np.float16)
    floats.read_into(read, 2 * first, out.data.cast("B"))
    assert np.array_equal(out, values.astype(np.float16).ravel()[first : first + count])


def changed(folder: Path, **settings: Any) -> str:
    path = folder / "config.json"
    table = json.loads(path.read_text())
    table["quantization_config"] |= settings
    path.write_text(json.dumps(table))
    with pytest.raises(SourceError) as error:
        open_checkpoint(folder)
    with pytest.raises(SourceError) as alone:
        open_checkpoint(path)
    assert str(alone.value).partition(": ")[2] == str(error.value).partition(": ")[2]
    return str(error.value)


@pytest.mark.parametrize(
    ("form", "settings", "words"),
    [
        ("gptq 4 bits", {"checkpoint_format": "marlin"}, "GPTQ in the packing of marlin"),
        ("gptq 4 bits", {"is_marlin_format": True}, "GPTQ in the packing of marlin"),
        ("gptq 4 bits", {"bits": 5}, "GPTQ with 5 bits"),
        ("awq", {"version": "gemv"}, "AWQ in the packing gemv"),
        ("awq", {"version": "marlin"}, "AWQ in the packing marlin"),
        ("awq", {"bits": 8}, "AWQ with 8 bits"),
        ("awq", {"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ],
)
def test_packings_that_cannot_be_read_are_refused_by_name_from_a_config_alone_too(
    form: str, settings: dict[str, Any], words: str, qwen: Path, tmp_path: Path
) -> None:
    write_transposed(qwen, tmp_path / "packed", FORMS[form], twin=tmp_path / "twin")
    message = changed(tmp_path / "packed", **settings)
    assert words in message
    assert "use the original, unquantized repository" in message


def parts_of(how: Transposed) -> dict[str, Tensor]:
    parts, _ = pack(np.random.default_rng(1).normal(size=(64, 128)).astype(np.float32), how, 7)
    return {f"x.{n}": Tensor(f"x.{n}", dtype, shape, "f", 0, len(raw)) for n, (dtype, shape, raw) in parts.items()}


@pytest.mark.parametrize(("form", "part"), [("gptq 4 bits", "scales"), ("awq", "scales"), ("awq", "qweight")])
def test_a_missing_part_is_named(form: str, part: str) -> None:
    tensors = parts_of(FORMS[form])
    del tensors[f"x.{part}"]
    with pytest.raises(SourceError, match="is a shard missing"):
        decoded_tensors({"quantization_config": FORMS[form].settings}, tensors)


@pytest.mark.parametrize("part", ["scales", "qzeros", "g_idx"])
def test_parts_of_another_shape_are_named(part: str) -> None:
    tensors = parts_of(FORMS["gptq 4 bits"])
    tensors[f"x.{part}"] = Tensor(f"x.{part}", "I32", (3, 5), "f", 0, 60)
    with pytest.raises(SourceError, match=f"x: qweight .*{part} I32 \\[3, 5\\]"):
        decoded_tensors({"quantization_config": FORMS["gptq 4 bits"].settings}, tensors)


def test_a_group_that_there_is_not_is_named(qwen: Path, tmp_path: Path) -> None:
    write_transposed(qwen, tmp_path / "packed", FORMS["gptq 4 bits"], twin=tmp_path / "twin")
    source = open_checkpoint(tmp_path / "packed")
    tensor = next(t for n, t in source.tensors.items() if n.endswith("q_proj.g_idx"))
    with (tmp_path / "packed" / tensor.file).open("r+b") as file:
        file.seek(tensor.start)
        file.write((99).to_bytes(4, "little"))
    with pytest.raises(SourceError, match=r"groups 0 to 1 expected, 0 to 99 found"):
        build(tmp_path / "packed", tmp_path / "out", "none")


@pytest.mark.parametrize("name", FORMS)
def test_source_bytes_are_what_the_shards_hold_and_a_config_alone_tells_them(
    name: str, qwen: Path, tmp_path: Path
) -> None:
    write_transposed(qwen, tmp_path / "packed", FORMS[name], twin=tmp_path / "twin")
    source = open_checkpoint(tmp_path / "packed")
    assert source_bytes(tmp_path / "packed") == sum(t.nbytes for t in source.tensors.values())
    assert source_bytes(tmp_path / "packed" / "config.json") == source_bytes(tmp_path / "packed")


def source_bytes(place: Path) -> int:
    source = open_checkpoint(place)
    size: int = make_plan(read_layout(source), load_recipe("none"), source).totals["source_bytes"]
    return size


def test_the_source_is_said_to_be_quantized_itself(qwen: Path, tmp_path: Path) -> None:
    write_transposed(qwen, tmp_path / "packed", FORMS["gptq 3 bits"], twin=tmp_path / "twin")
    notes = open_checkpoint(tmp_path / "packed").notes
    assert any(note.startswith("the source is quantized itself (16 weights in INT3): its error") for note in notes)
