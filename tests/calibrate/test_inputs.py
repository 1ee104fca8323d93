"""Sums of squares of inputs: the same as an ordinary forward's, an expert each, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.utils import load_model

from mlxquant.calibrate.inputs import HOLD_OUT_EVERY, InputSums, Sums
from mlxquant.calibrate.weights import FLOOR, shrunk
from mlxquant.layout.arrays import module_at
from mlxquant.layout.layout import read_layout
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.engine import compare
from mlxquant.stream.options import CompareOptions
from tests.checkpoints import Size, write_tiny
from tests.stream.compare_pass import Text, in_float32, texts


def calibrated(folder: Path, documents: list[Text], **options: Any) -> InputSums:
    source = open_checkpoint(folder)
    sums = InputSums(read_layout(source).modules)
    compare(source, [], documents, sums, CompareOptions(noise_floor=False, own=False, **options), listener=sums)
    return sums


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tiny"
    write_tiny(folder, "qwen3_moe", Size(layers=2, hidden=64))
    return folder


@pytest.fixture(scope="module")
def sums(source: Path) -> InputSums:
    return calibrated(source, texts())


def dense_inputs(folder: Path, path: str, documents: list[Text]) -> list[np.ndarray[Any, Any]]:
    """What enters a linear layer of the whole model, run as mlx-lm runs it."""
    model = in_float32(load_model(folder)[0])
    module, rows = module_at(model, path), list[np.ndarray[Any, Any]]()

    class Listening(nn.Linear):
        def __call__(self, x: mx.array) -> mx.array:
            rows.append(np.array(x.astype(mx.float32)).reshape(-1, x.shape[-1]))
            return super().__call__(x)

    object.__setattr__(module, "__class__", Listening)
    for document in documents:
        mx.eval(model(mx.array(document.tokens)[None]))
    return rows


@pytest.mark.parametrize("path", ["model.layers.1.self_attn.o_proj", "lm_head"])
def test_sums_of_a_linear_layer_are_those_of_an_ordinary_forward(source, sums, path):
    rows = dense_inputs(source, path, texts())
    for part in (0, 1):
        chosen = [r for i, r in enumerate(rows) if (i % HOLD_OUT_EVERY == 0) == bool(part)]
        # the last token predicts nothing: the head does not see it
        chosen = [r[:-1] for r in chosen] if path == "lm_head" else chosen
        expected = sum((r.astype(np.float64) ** 2).sum(0) for r in chosen)
        assert sums.sums[path].rows[part].tolist() == [sum(map(len, chosen))]
        np.testing.assert_allclose(sums.sums[path].squares[part, 0], expected, rtol=1e-4)


def test_every_token_counts_once_for_each_of_its_experts(sums):
    tokens = [sum(len(t.tokens) for i, t in enumerate(texts()) if (i % 4 == 0) == held) for held in (False, True)]
    for name in ("gate_proj", "up_proj", "down_proj"):
        each = sums.sums[f"model.layers.0.mlp.switch_mlp.{name}"]
        assert each.rows.sum(1).tolist() == [2 * n for n in tokens]
        assert ((each.squares.sum(2) > 0) == (each.rows > 0)).all()
    gate, up = (sums.sums[f"model.layers.0.mlp.switch_mlp.{name}"].squares for name in ("gate_proj", "up_proj"))
    assert np.array_equal(gate, up)


def test_experts_of_one_layer_add_up_to_the_input_of_their_block(source, sums):
    router = sums.sums["model.layers.1.mlp.gate"]
    experts = sums.sums["model.layers.1.mlp.switch_mlp.gate_proj"]
    np.testing.assert_allclose(experts.squares.sum(1), 2 * router.squares[:, 0], rtol=1e-5)


def test_a_lookup_is_no_input(sums):
    assert not sums.sums["model.embed_tokens"].rows.any()


def test_long_documents_in_chunks_give_the_same_sums(source, sums):
    chunked = calibrated(source, texts(), chunk=16)
    for path, each in sums.sums.items():
        assert np.array_equal(chunked.sums[path].rows, each.rows), path
        np.testing.assert_allclose(chunked.sums[path].squares, each.squares, rtol=2e-3)


def test_shares_of_ranks_merge_to_the_sums_of_all(source, sums):
    parts = []
    for share in (0.25, 0.75):
        own = InputSums(read_layout(open_checkpoint(source)).modules)
        own.restore(sums.state())
        for each in own.sums.values():
            each.squares *= share
            each.rows *= share > 0.5
        parts.append({name: array.copy() for name, array in own.state().items()})
    whole = InputSums(read_layout(open_checkpoint(source)).modules)
    whole.merge(parts)
    for path, each in sums.sums.items():
        np.testing.assert_allclose(whole.sums[path].squares, each.squares)
        assert np.array_equal(whole.sums[path].rows, each.rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    ["deepseek_v3", "gpt_oss", "granitemoehybrid", "llama4", "mixtral", "nemotron_h", "qwen3_5_moe"],
)
def test_every_architecture_gives_inputs_for_what_it_multiplies(architecture, tmp_path):
    write_tiny(tmp_path / "tiny", architecture)
    result = calibrated(tmp_path / "tiny", texts())
    silent = [path for path, each in result.sums.items() if not each.rows.any()]
    # an embedding is looked up; MLA's keys are absorbed, so its projection of them multiplies from the other side
    assert all(path.endswith(("embed_tokens", "embeddings", "embed_q")) for path in silent), silent
    assert all(np.isfinite(each.squares).all() for each in result.sums.values())


def test_an_expert_of_few_tokens_takes_its_layers_figures_and_one_of_many_its_own():
    sums = Sums.empty(3, 4)
    sums.squares[0] = np.array([[4e5, 1e5, 1e5, 1e5], [1, 0, 0, 0], [0, 0, 0, 0]])
    sums.rows[0] = np.array([1_000_000, 1, 0])
    weights = shrunk(sums, 0, shared_prior=True)
    assert weights.mean(1) == pytest.approx([1, 1, 1], abs=1e-3)
    assert weights[0] == pytest.approx(np.array([16, 4, 4, 4]) / 7 + FLOOR, rel=1e-3)
    assert weights[1] == pytest.approx(weights[2], abs=0.05)  # one row of its own against 128 of the layer
    flat = shrunk(sums, 0, shared_prior=False)
    assert flat[2] == pytest.approx(np.ones(4) + FLOOR)
