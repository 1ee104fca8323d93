"""A build is written by the encoder that it is given: rows of a module in; integers, scales and biases out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlxquant.builds.write.pieces import Sizes
from mlxquant.errors import OutputError
from mlxquant.kernels import Rounding
from tests.builds.cases import Halved
from tests.builds.write.faults import AtRename, Dead, hooked
from tests.support.builds import build, contents, stored


def test_rounding_is_the_encoder_where_none_is_given(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "default")
    build(tiny_qwen, tmp_path / "given", encoder=Rounding())
    assert contents(tmp_path / "given") == contents(tmp_path / "default")


def test_what_an_encoder_makes_is_what_is_stored(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "rounded", "uniform-8bit")
    build(tiny_qwen, tmp_path / "halved", "uniform-8bit", encoder=Halved())
    name = "language_model.model.layers.0.mlp.switch_mlp.down_proj"
    whole, half = (stored(tmp_path / folder) for folder in ("rounded", "halved"))
    assert half[f"{name}.weight"] == whole[f"{name}.weight"]
    scales = [np.frombuffer(tensors[f"{name}.scales"][2], np.uint16) for tensors in (whole, half)]
    assert (scales[0] - scales[1] == 0x80).all()  # one less in the exponent of a bfloat16


def test_an_encoder_is_asked_for_every_row_of_every_quantized_module_once(tiny_qwen, tmp_path):
    encoder = Halved()
    build(tiny_qwen, tmp_path / "out", encoder=encoder, sizes=Sizes(piece=64 << 10, block=16 << 10), threads=1)
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    rows: dict[str, int] = {}
    for module, first, count in encoder.blocks:
        assert first == rows.get(module, 0)
        rows[module] = first + count
    assert rows == {m["path"]: int(np.prod(m["shape"][:-1])) for m in audit["modules"] if m["format"]}


def test_unfinished_work_of_another_encoder_is_refused(tiny_qwen, tmp_path):
    with hooked(AtRename()), pytest.raises(Dead):
        build(tiny_qwen, tmp_path / "out", encoder=Halved(method="halved", moments="aa"))
    with pytest.raises(OutputError, match=r"options.encoder.moments: aa then, bb now"):
        build(tiny_qwen, tmp_path / "out", encoder=Halved(method="halved", moments="bb"))
    with pytest.raises(OutputError, match=r"options.encoder"):
        build(tiny_qwen, tmp_path / "out")
    assert build(tiny_qwen, tmp_path / "out", encoder=Halved(method="halved", moments="aa")).resumed_bytes > 0


def test_the_manifest_names_what_an_encoder_s_bytes_depend_on(tiny_qwen, tmp_path):
    build(tiny_qwen, tmp_path / "halved", encoder=Halved())
    build(tiny_qwen, tmp_path / "rounded")
    manifests = [json.loads((tmp_path / n / "mlxquant.json").read_text()) for n in ("halved", "rounded")]
    assert manifests[0]["options"]["encoder"] == {"method": "halved"}
    assert "encoder" not in manifests[1]["options"]
