"""Errors of builds, measured against their sources: beside numpy, beside convert, and with planted faults."""

from __future__ import annotations

import json
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.builds.read.build import read_build
from mlxquant.check.against_source import compare_with_source
from mlxquant.check.audit import audit_build
from mlxquant.errors import SourceError
from mlxquant.source.hub.open import open_source
from mlxquant.words.progress import Progress
from tests.builds.read.audit_builds import copied, edit_tensors, made_by_mlx_lm, made_by_us
from tests.support.builds import patch

MODES: dict[str, dict[str, Any]] = {
    "8-bit": {"q_bits": 8, "q_group_size": 64},
    "3-bit": {"q_bits": 3, "q_group_size": 32},
    "mxfp4": {"q_mode": "mxfp4"},
    "nvfp4": {"q_mode": "nvfp4"},
}
DTYPES = ("bfloat16", "float16", "float32")


@pytest.fixture(scope="module")
def own(tiny_qwen, tmp_path_factory):
    return made_by_us(tiny_qwen, tmp_path_factory.mktemp("own") / "build", "gates-8bit")


def compared(build, source, **options):
    return compare_with_source(read_build(build), open_source(str(source)), **options)


@pytest.mark.parametrize("values", [b"\xc0\x7f", b"\x80\xff", b"\x7f\x7f\x7f\xff"], ids=["nan", "infinity", "overflow"])
def test_values_that_are_not_finite_are_noted_and_in_no_sum(tiny_qwen, tmp_path, values):
    source, out = copied(tiny_qwen, tmp_path / "source"), tmp_path / "out"
    patch(source, "lm_head.weight", values, at=256)
    made_by_us(source, out, "uniform-8bit", allow_nonfinite=True)
    record = json.loads((out / "audit.json").read_text(), parse_constant=pytest.fail)
    note = "non-finite values in 1 module (first: language_model.lm_head): their error is not a number"
    assert record["notes"][-1] == note
    assert record["not_a_number"] == ["language_model.lm_head"]
    assert f"- {note}" in (out / "AUDIT.md").read_text()
    errors = record["totals"]["errors"]
    assert 0 < errors["relative_rms_error"] < 0.01
    assert errors["modules"] == sum(m["errors"] is not None for m in record["modules"]) - 1
    assert audit_build(read_build(out)) == record
    measured = audit_build(read_build(out), compared(out, source))
    assert measured["totals"] == record["totals"]
    assert [n for n in measured["notes"] if "non-finite" in n] == [note]


def test_a_record_of_an_earlier_version_without_that_list_gives_the_same_audit(tiny_qwen, tmp_path):
    source, out = copied(tiny_qwen, tmp_path / "source"), tmp_path / "out"
    patch(source, "lm_head.weight", b"\xc0\x7f", at=256)
    made_by_us(source, out, "uniform-8bit", allow_nonfinite=True)
    record = json.loads((out / "audit.json").read_text())
    (out / "audit.json").write_text(json.dumps({k: v for k, v in record.items() if k != "not_a_number"}))
    assert audit_build(read_build(out)) == record


def test_a_build_without_such_values_has_no_such_list(own):
    assert "not_a_number" not in audit_build(read_build(own))


def modes_of_dtypes() -> list[Any]:
    """Every mode of every dtype; two of each dtype by default, the rest slow, since each compiles a kernel."""
    pairs = [(m, mode, d, dtype) for m, mode in enumerate(MODES) for d, dtype in enumerate(DTYPES)]
    return [pytest.param(mode, dtype, marks=() if m % 3 == d else pytest.mark.slow) for m, mode, d, dtype in pairs]


@pytest.mark.parametrize(("mode", "dtype"), modes_of_dtypes())
def test_errors_are_those_that_numpy_finds_between_weights_and_mlxs_dequantized_ones(tiny, tmp_path, mode, dtype):
    source = tiny("llama")
    build = made_by_mlx_lm(source, tmp_path / "b", quantize=True, dtype=dtype, **MODES[mode])
    plain = made_by_mlx_lm(source, tmp_path / "plain", dtype=dtype)
    path = "model.layers.1.mlp.down_proj"
    stored_build = read_build(build)
    arrays: Any = mx.load(str(build / "model.safetensors"))
    weights: Any = mx.load(str(plain / "model.safetensors"))
    w = np.array(weights[f"{path}.weight"].astype(mx.float32), np.float64)
    fmt = stored_build.formats[path]
    assert fmt is not None
    scales, biases = arrays[f"{path}.scales"], arrays.get(f"{path}.biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    restored = mx.dequantize(
        arrays[f"{path}.weight"], scales, biases, fmt.group_size, fmt.bits, fmt.mode, dtype=mx.float32
    )
    error = np.abs(w - np.array(restored, np.float64))
    groups = error.reshape(-1, fmt.group_size), w.reshape(-1, fmt.group_size)
    rows = np.sqrt((error**2).sum(axis=1) / (w**2).sum(axis=1))

    # mx modes have no dtype of their own: the source is taken as the config casts it
    comparison = compared(build, source if dtype == "bfloat16" or biases is not None else plain)
    entry = next(m for m in audit_build(stored_build, comparison)["modules"] if m["path"] == path)["errors"]
    relative = np.sqrt((error**2).sum() / (w**2).sum())
    assert entry["relative_rms_error"] == pytest.approx(relative, rel=1e-4)
    assert entry["sqnr_db"] == pytest.approx(-20 * np.log10(relative), rel=1e-4)
    assert entry["max_abs_error"] == pytest.approx(error.max(), rel=1e-4)
    span = groups[1].max(axis=1) - groups[1].min(axis=1)
    assert entry["max_range_share"] == pytest.approx((groups[0].max(axis=1) / span).max(), rel=1e-4)
    assert entry["worst_row"] == rows.argmax()
    assert entry["worst_row_relative_rms_error"] == pytest.approx(rows.max(), rel=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_measured_anew_are_to_the_last_digit_those_that_convert_summed(own, tiny_qwen, threads):
    record = audit_build(read_build(own), compared(own, tiny_qwen, threads=threads))
    written = json.loads((own / "audit.json").read_text())
    assert record["modules"] == written["modules"]
    assert record["by_role"] == written["by_role"]


def test_every_architecture_is_the_same_as_its_source_but_for_what_is_quantized(tiny_any, tmp_path):
    build = made_by_us(tiny_any, tmp_path / "b", "deepseek-4bit")
    comparison = compared(build, tiny_any)
    stored = read_build(build).stored.values()
    assert comparison.disagreements == ()
    assert comparison.equal > 0
    measured = {s.module.path for s in stored if s.format}
    if tiny_any.name == "gpt_oss":
        measured = {p for p in measured if "experts" not in p}
        assert comparison.notes == ("12 modules that the source stores as mxfp4 g32 already: no error was measured",)
    assert set(comparison.errors) == measured


def test_a_build_of_mlx_lm_is_measured_like_ours(tiny_qwen, tmp_path):
    theirs = made_by_mlx_lm(tiny_qwen, tmp_path / "theirs", quantize=True, q_bits=4, q_group_size=64)
    ours = made_by_us(tiny_qwen, tmp_path / "ours", "mlx-lm-default")
    assert dict(compared(theirs, tiny_qwen).errors) == dict(compared(ours, tiny_qwen).errors)


def test_a_changed_norm_is_found_with_its_row(own, tiny_qwen, tmp_path):
    build = copied(own, tmp_path / "b")
    name = "language_model.model.norm.weight"

    def change(tensors):
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, b"\x01" + data[1:])

    edit_tensors(build, change)
    assert compared(build, tiny_qwen).disagreements == (f"{name}: not the source's: 1 rows differ, the first is 0",)


def test_a_changed_row_of_a_kept_matrix_is_found_with_its_row(own, tiny_qwen, tmp_path):
    build = copied(own, tmp_path / "b")
    name = "language_model.model.layers.2.mlp.gate.weight"

    def change(tensors):
        dtype, shape, data = tensors[name]
        at = 5 * len(data) // shape[0]
        tensors[name] = (dtype, shape, data[:at] + bytes(8) + data[at + 8 :])

    edit_tensors(build, change)
    assert compared(build, tiny_qwen).disagreements == (f"{name}: not the source's: 1 rows differ, the first is 5",)


def test_damaged_scales_show_as_the_worst_row(own, tiny_qwen, tmp_path):
    build = copied(own, tmp_path / "b")
    path = "language_model.model.layers.0.mlp.switch_mlp.up_proj"

    def change(tensors):
        dtype, shape, data = tensors[f"{path}.scales"]
        assert shape == [8, 128, 1]
        tensors[f"{path}.scales"] = (dtype, shape, data[: 2 * 300] + bytes(2) + data[2 * 301 :])

    edit_tensors(build, change)
    sums = compared(build, tiny_qwen).errors[path]
    assert sums.worst_row == 300
    assert sums.max_range_share > 0.4


def test_the_source_of_another_model_is_refused(own, tiny):
    with pytest.raises(SourceError, match="is a qwen3_5_moe model; give the checkpoint"):
        compared(own, tiny("llama"))


def test_a_config_alone_is_no_source(own, tiny_qwen):
    with pytest.raises(SourceError, match="no weights to hold the build against"):
        compared(own, tiny_qwen / "config.json")


def test_what_a_build_lacks_is_no_reason_to_stop(own, tiny_qwen, tmp_path):
    build = copied(own, tmp_path / "b")
    path = "language_model.model.layers.3.self_attn.q_norm"
    edit_tensors(build, lambda tensors: tensors.pop(f"{path}.weight"))
    assert len(compared(build, tiny_qwen).errors) == len(compared(own, tiny_qwen).errors)
    assert any(d.startswith(f"{path}.weight: not in the shards") for d in read_build(build).disagreements)


def test_a_vision_tower_that_was_carried_along_is_compared_too(tiny, tmp_path):
    source = tiny("qwen3_5_moe_vision")
    build = made_by_us(source, tmp_path / "b", "gates-8bit", keep=("vision",))
    name = "vision_tower.merger.norm.weight"
    assert compared(build, source).disagreements == ()
    edit_tensors(build, lambda t: t.update({name: (*t[name][:2], bytes(len(t[name][2])))}))
    assert compared(build, source).disagreements == (f"{name}: not the source's: 1 rows differ, the first is 0",)


def test_progress_ends_at_the_whole(own, tiny_qwen):
    seen: list[Progress] = []
    compared(own, tiny_qwen, watch=seen.append)
    assert seen[-1].done == seen[-1].total > 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
