"""The streamed pass computes what mlx-lm's ordinary forward computes: exactly, in chunks, for recipes and builds."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mlxquant.errors import BuildError, LayoutError, MlxquantError, UsageError
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate, RecipeCandidate
from mlxquant.stream.engine import compare
from mlxquant.stream.options import NOISE_FLOOR, CompareOptions
from mlxquant.stream.scores import token_scores
from mlxquant.words.progress import Progress, Within
from tests.checkpoints import ARCHITECTURES, Size, write_tiny
from tests.stream.compare_pass import Keeper, distance, logits_of_pass, narrow, ordinary_logits, run_pass, texts
from tests.support.builds import build as converted

# norm-wise; what the fast forms of a CPU are held to
EXACT = 1e-5
# recipe, its bits, the chunk: what differs between runs of the slow test
CASES = [
    pytest.param("none", {}, 2048, id="none"),
    pytest.param("gates-8bit", {"bits": 4}, 2048, id="4-bit"),
    pytest.param("naive-linear-8bit", {"bits": 2}, 2048, id="2-bit"),
    pytest.param("deepseek-8bit", {}, 16, id="8-bit in chunks"),
]


def exactly_as_mlx_lm(source: Path, recipe_name: str, tmp_path: Path, chunk: int = 2048, **overrides):
    """Hold reference and recipe against mlx-lm's forwards of the checkpoint and of the build that convert writes."""
    documents = texts()
    recipe = narrow(recipe_name, **overrides)
    reference, mine = logits_of_pass(source, Candidate("it", recipe=recipe), documents, chunk=chunk)
    converted(source, tmp_path / "build", recipe, audit=False, hash=False)
    assert distance(reference, ordinary_logits(source, documents, chunk)) < EXACT
    assert distance(mine, ordinary_logits(tmp_path / "build", documents, chunk)) < EXACT
    return reference, mine


@pytest.mark.parametrize("architecture", ["qwen3_5_moe", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_reference_and_recipe_give_the_logits_of_mlx_lms_forward(tiny, tmp_path, architecture):
    reference, mine = exactly_as_mlx_lm(tiny(architecture), "gates-8bit", tmp_path, bits=4)
    assert distance(mine, reference) > 1e-3, "a recipe that changes nothing would prove nothing"


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "overrides", "chunk"), CASES)
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_gives_the_logits_of_mlx_lms_forward(tiny, tmp_path, architecture, recipe, overrides, chunk):
    exactly_as_mlx_lm(tiny(architecture), recipe, tmp_path, chunk, **overrides)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_formats_without_float_scales_give_the_logits_of_mlx_lms_forward(tiny, tmp_path, mode):
    from mlxquant.plan.recipe.recipe import load_recipe

    group, bits = {"mxfp4": (32, 4), "mxfp8": (32, 8), "nvfp4": (16, 4)}[mode]
    recipe = load_recipe("uniform-8bit", mode=mode, bits=bits, group_size=group, unaligned="keep")
    documents, source = texts(), tiny("mixtral")
    reference, mine = logits_of_pass(source, Candidate("it", recipe=recipe), documents)
    converted(source, tmp_path / "build", recipe, audit=False, hash=False)
    assert distance(mine, ordinary_logits(tmp_path / "build", documents)) < EXACT
    assert distance(mine, reference) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe", "llama", "mixtral", "qwen3_5_moe", "qwen3_moe"])
def test_real_tiny_checkpoints_give_the_logits_of_mlx_lms_forward(shared, tmp_path, name):
    source = shared / "checkpoints" / name
    if not (source / "config.json").is_file():
        pytest.skip(f"{source} is not on this machine")
    documents = texts(vocabulary=200)
    recipe = narrow("gates-8bit", bits=4)
    reference, mine = logits_of_pass(source, Candidate("it", recipe=recipe), documents)
    converted(source, tmp_path / "build", recipe, audit=False, hash=False)
    assert distance(reference, ordinary_logits(source, documents)) < EXACT
    assert distance(mine, ordinary_logits(tmp_path / "build", documents)) < EXACT


@pytest.mark.parametrize("architecture", ["qwen3_5_moe", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_a_text_in_chunks_gives_the_logits_of_a_forward_in_the_same_chunks(tiny, architecture):
    documents, source = texts((50, 9)), tiny(architecture)
    reference, _ = logits_of_pass(source, Candidate("it", recipe=narrow("none")), documents, chunk=16)
    assert distance(reference, ordinary_logits(source, documents, chunk=16)) < EXACT
    assert distance(reference, ordinary_logits(source, documents)) < 1e-4


def test_a_build_on_disk_scores_as_the_recipe_that_made_it(tiny, tmp_path):
    source, recipe = tiny("mixtral"), narrow("gates-8bit", bits=4)
    converted(source, tmp_path / "build", recipe, audit=False, hash=False)
    done, sink = run_pass(
        source, [Candidate("recipe", recipe=recipe), Candidate("build", build=tmp_path / "build")], texts()
    )
    own, built = done.candidates[:2]
    assert own["recipe"] == built["recipe"]
    assert built["manifest_sha256"] == sha256((tmp_path / "build" / "mlxquant.json").read_bytes()).hexdigest()
    for d in range(len(texts())):
        assert np.array_equal(sink.scores[0, "accumulated", d].kl, sink.scores[1, "accumulated", d].kl)
        assert sink.scores[0, "accumulated", d].kl.mean() > 1e-5


def test_a_build_of_mlx_lms_own_takes_part(tiny, tmp_path):
    from mlx_lm import convert

    source = tiny("llama")
    convert(str(source), str(tmp_path / "theirs"), quantize=True, q_bits=4, q_group_size=32)
    documents = texts()
    _, mine = logits_of_pass(source, Candidate("theirs", build=tmp_path / "theirs"), documents)
    assert distance(mine, ordinary_logits(tmp_path / "theirs", documents)) < EXACT


def test_a_build_of_another_model_is_refused(tiny, tmp_path):
    write_tiny(tmp_path / "other", "mixtral", Size(experts=4))
    converted(tmp_path / "other", tmp_path / "build", "uniform-8bit", audit=False, hash=False)
    with pytest.raises(BuildError, match="another model"):
        run_pass(tiny("mixtral"), [Candidate("build", build=tmp_path / "build")], texts())


@pytest.mark.parametrize("candidates", [1, 3])
def test_every_tensor_is_read_once_however_many_candidates_there_are(tiny, candidates):
    source = tiny("qwen3_5_moe")
    chosen = [Candidate(f"{b}", recipe=narrow("uniform-8bit", bits=b)) for b in (8, 4, 2)[:candidates]]
    result, _ = run_pass(source, chosen, texts((9, 5)))
    checkpoint = open_checkpoint(source)
    assert result.bytes_read == result.source_bytes
    mtp = sum(t.nbytes for n, t in checkpoint.tensors.items() if n.startswith("mtp."))
    assert result.source_bytes == checkpoint.nbytes - mtp


@pytest.mark.parametrize("candidates", [1, 3])
def test_sanitize_is_run_once_for_the_source_however_many_candidates_there_are(tiny, monkeypatch, candidates):
    from mlx_lm.models import mixtral

    runs = []
    sanitize = mixtral.Model.sanitize

    def counted(model, weights):
        runs.append(model)
        return sanitize(model, weights)

    monkeypatch.setattr(mixtral.Model, "sanitize", counted)
    chosen = [Candidate(f"{b}", recipe=narrow("uniform-8bit", bits=b)) for b in (8, 4, 2)[:candidates]]
    run_pass(tiny("mixtral"), chosen, texts((5,)))
    assert len(runs) == 1


@pytest.mark.slow
def test_a_model_that_its_sanitize_changes_is_changed_for_every_candidate(tmp_path):
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.gemma3_text import Model, ModelArgs

    config = {"model_type": "gemma3_text", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 64,
              "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 500,
              "sliding_window_pattern": 2}  # fmt: skip
    arrays = dict(tree_flatten(Model(ModelArgs.from_dict(config)).parameters()))
    del arrays["lm_head.weight"]  # tied: sanitize drops the module
    (tmp_path / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays, {"format": "pt"})
    _, sink = run_pass(tmp_path, [Candidate("none", recipe=narrow("none"))], texts((9,)))
    assert not sink.scores[0, "accumulated", 0].kl.any()


def test_a_tied_embedding_is_read_once(tiny):
    source = tiny("llama")
    tied = json.loads((source / "config.json").read_text()).get("tie_word_embeddings")
    result, _ = run_pass(source, [Candidate("a", recipe=narrow("uniform-8bit"))], texts((9,)))
    assert tied
    assert result.bytes_read == open_checkpoint(source).nbytes


@pytest.mark.parametrize(
    "where", ["layers=2", *(pytest.param(each, marks=pytest.mark.slow) for each in ("role=lm_head", "role=expert"))]
)
def test_what_a_candidate_shares_with_the_reference_is_not_computed_and_its_scores_are_the_same(
    tiny, monkeypatch, where
):
    recipe = load_recipe("none", sets=[f"{where}:bits=4,group_size=32"])
    sinks = []
    for computes_all in (False, True):
        if computes_all:
            monkeypatch.setattr(RecipeCandidate, "_first_step", lambda _: 0)
        _, sink = run_pass(tiny("qwen3_5_moe"), [Candidate("it", recipe=recipe)], texts(), teacher_forced_routing=True)
        sinks.append(sink)
    alike, computed = (sink.state() for sink in sinks)
    assert alike.keys() == computed.keys()
    assert all(np.array_equal(alike[name], computed[name]) for name in computed)


def test_a_candidate_that_differs_in_the_head_alone_leaves_states_to_go_on_from(tiny, tmp_path):
    recipe = load_recipe("none", sets=["role=lm_head:bits=4,group_size=32"])
    candidates = [Candidate("it", recipe=recipe)]
    _, kept = run_pass(tiny("qwen3_5_moe"), candidates, texts((9,)), work=tmp_path / "work", keep_every_s=0)
    _, plain = run_pass(tiny("qwen3_5_moe"), candidates, texts((9,)))
    assert np.array_equal(kept.scores[0, "accumulated", 0].kl, plain.scores[0, "accumulated", 0].kl)


def test_a_recipe_that_quantizes_nothing_equals_the_reference_exactly(tiny):
    _, sink = run_pass(tiny("mixtral"), [Candidate("none", recipe=narrow("none"))], texts())
    scores = sink.scores[0, "accumulated", 1]
    assert not scores.kl.any()
    assert scores.same_top.all()
    assert np.array_equal(scores.nll, scores.nll_reference)
    assert not sink.layers[0, "accumulated", 1, 3].error_out.any()


def test_the_noise_floor_is_the_reference_computed_in_bf16_as_mlx_lm_serves_it(tiny):
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import load_model

    from mlxquant.stream.widened import added_up_in_float32
    from tests.stream.compare_pass import in_float32

    source, documents = tiny("qwen3_moe"), texts((30,))
    result, sink = run_pass(source, [], documents)
    assert result.candidates == [{"name": NOISE_FLOOR}]
    ids = mx.array(documents[0].tokens)[None]
    exact = in_float32(load_model(source, lazy=True)[0])(ids)[0, :-1]
    served = load_model(source, lazy=True)[0]
    served.update(tree_map(lambda a: a.astype(mx.bfloat16), served.parameters()))
    with added_up_in_float32(mx.bfloat16):
        logits = served(ids)[0, :-1].astype(mx.float32)
    scores = token_scores(exact, logits, mx.array(documents[0].tokens[1:]))
    assert np.allclose(sink.scores[0, "accumulated", 0].kl, scores.kl, rtol=1e-4, atol=1e-8)
    assert 0 < scores.kl.mean() < 1e-2


def test_a_pass_in_bf16_has_a_noise_floor_of_the_same_size_as_one_in_float32(tiny):
    floors = [
        run_pass(tiny("qwen3_moe"), [], texts((30, 20)), compute=compute)[1].scores[0, "accumulated", 0].kl.mean()
        for compute in ("float32", "bfloat16")
    ]
    assert floors[0] > 0
    assert 0.3 < floors[1] / floors[0] < 3


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_mixture_of_experts_is_computed_as_it_is_served_on_a_cpu(tiny, name):
    candidates = [Candidate("8", recipe=narrow("gates-8bit")), Candidate("none", recipe=narrow("none"))]
    result, sink = run_pass(tiny(name), candidates, texts((20,)), compute="served")
    assert "served" in result.compute_reason
    assert 0 < sink.scores[0, "accumulated", 0].kl.mean() < 0.1
    assert not sink.scores[1, "accumulated", 0].kl.any()


def test_errors_enter_and_leave_layers_as_they_should(tiny):
    candidates = [Candidate("4", recipe=narrow("gates-8bit", bits=4))]
    _, sink = run_pass(tiny("qwen3_moe"), candidates, texts((20, 6)))
    for d in (0, 1):
        for layer in range(1, 4):
            before, here = sink.layers[0, "accumulated", d, layer - 1], sink.layers[0, "accumulated", d, layer]
            assert np.array_equal(before.error_out, here.error_in)
            own = sink.layers[0, "own", d, layer]
            assert not own.error_in.any()
            assert (own.error_out > 0).all()
            assert own.error_out.mean() < here.error_out.mean()


def test_a_model_that_passes_more_than_the_hidden_state_is_refused_by_name(tiny, tmp_path, monkeypatch):
    from mlx_lm.models import qwen3_moe

    def forward(self, inputs, cache=None, input_embeddings=None):
        h = self.embed_tokens(inputs)
        for layer in self.layers:
            h = layer(h, "causal", None) * 0.5
        return self.norm(h)

    monkeypatch.setattr(qwen3_moe.Qwen3MoeModel, "__call__", forward)
    with pytest.raises(LayoutError, match=r"qwen3_moe cannot be streamed.*between layers 0 and 1"):
        run_pass(tiny("qwen3_moe"), [], texts())


def test_weights_used_where_they_are_not_expected_do_not_go_unseen(tiny, monkeypatch):
    from mlx_lm.models import qwen3_moe

    def forward(self, inputs, cache=None, input_embeddings=None):
        h = embedded = self.embed_tokens(inputs)
        for layer in self.layers:
            h = layer(h, "causal", None)
        return self.norm(h + embedded)

    monkeypatch.setattr(qwen3_moe.Qwen3MoeModel, "__call__", forward)
    with pytest.raises(MlxquantError, match="logits of document 0 holds NaN"):
        run_pass(tiny("qwen3_moe"), [], texts())


def test_builds_own_dtypes_are_computed_in_where_the_device_can(tiny):
    result, sink = run_pass(
        tiny("llama"),
        [Candidate("8", recipe=narrow("uniform-8bit"))],
        texts((20,)),
        compute="served",
        noise_floor=False,
    )
    assert "served" in result.compute_reason
    assert 0 < sink.scores[0, "accumulated", 0].kl.mean() < 0.1


def test_two_candidates_of_one_name_are_refused(tiny):
    twice = [Candidate("a", recipe=narrow("none")), Candidate("a", recipe=narrow("uniform-8bit"))]
    with pytest.raises(UsageError, match="one name"):
        run_pass(tiny("llama"), twice, texts((5,)))


def test_progress_is_reported_step_by_step(tiny):
    events: list[Progress] = []
    compare(
        open_checkpoint(tiny("llama")),
        [Candidate("none", recipe=narrow("none"))],
        texts((5,)),
        Keeper(),
        CompareOptions(),
        events.append,
    )
    assert [e.done for e in events] == [1, 2, 3, 4, 5, 6]
    assert [e.item for e in events][:2] == ["the embedding", "layer 0"]


def test_a_document_of_one_token_has_states_and_no_scores(tiny):
    _, sink = run_pass(tiny("llama"), [Candidate("8", recipe=narrow("uniform-8bit"))], texts((1, 4)))
    assert (0, "accumulated", 0) not in sink.scores
    assert len(sink.scores[0, "accumulated", 1].kl) == 3
    assert len(sink.layers[0, "accumulated", 0, 0].error_out) == 1


def test_a_sources_nan_is_refused_as_convert_refuses_it(tiny, tmp_path):
    from tests.support.builds import patch

    folder = tmp_path / "broken"
    shutil.copytree(tiny("llama"), folder)
    patch(folder, "model.layers.1.mlp.down_proj.weight", b"\xc0\x7f")
    with pytest.raises(MlxquantError, match="NaN"):
        run_pass(folder, [Candidate("8", recipe=narrow("uniform-8bit"))], texts((5,)))


def test_a_layer_says_how_many_tokens_went_through_it(tiny, monkeypatch):
    monkeypatch.setattr(Within, "EVERY_S", 0.0)
    events: list[Progress] = []
    source = open_checkpoint(tiny("qwen3_moe"))
    candidates = [Candidate("a", recipe=narrow("gates-8bit"))]
    compare(source, candidates, texts(), Keeper(), CompareOptions(), events.append)
    within = [e for e in events if e.part]
    assert {e.done for e in within} == set(range(1, len({e.done for e in within}) + 1))
    assert all(0 < e.part < 1 and " tokens" in e.item for e in within)
