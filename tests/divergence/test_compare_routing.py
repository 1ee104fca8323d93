"""What the pass sees of routing, and that teacher forcing forces exactly the routing and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxquant.layout.layout import read_layout
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.stream.candidates import Candidate
from mlxquant.stream.model import hook
from mlxquant.stream.routing import Seen, choice_of, compare_choices, find_places
from tests.checkpoints import ARCHITECTURES
from tests.stream.compare_pass import in_float32, narrow, run_pass, texts

ROUTED = {name: name not in ("llama",) for name in ARCHITECTURES}


def only(roles: str, tmp_path: Path, bits: int = 2) -> Candidate:
    """A recipe that quantizes modules of these roles and nothing else."""
    path = tmp_path / f"{roles}.toml"
    path.write_text(
        f'name = "{roles}"\nsummary = "one role"\nextends = "none"\n\n[[rules]]\nmatch = {{ role = ["{roles}"] }}\n'
        f'bits = {bits}\ngroup_size = 32\nreason = "a test"\n'
    )
    return Candidate(roles, recipe=load_recipe(str(path)))


@pytest.fixture(scope="module")
def damaged_router(tiny, tmp_path_factory):
    """A pass over a recipe that damages nothing but the routers."""
    candidate = only("router", tmp_path_factory.mktemp("recipes"))
    return run_pass(tiny("qwen3_moe"), [candidate], texts(), teacher_forced_routing=True)[1]


@pytest.fixture(scope="module")
def damaged_experts(tiny, tmp_path_factory):
    """A pass over a recipe that damages nothing but the experts."""
    candidate = only("expert", tmp_path_factory.mktemp("recipes"))
    return run_pass(tiny("qwen3_moe"), [candidate], texts(), teacher_forced_routing=True)[1]


def test_damage_to_routers_alone_is_gone_when_routing_is_forced(damaged_router):
    for d in range(4):
        assert damaged_router.scores[0, "accumulated", d].kl.mean() > 1e-4
        assert not damaged_router.scores[0, "teacher-forced", d].kl.any()


def test_damage_to_experts_alone_stays_when_routing_is_forced(damaged_experts):
    for d in range(4):
        assert damaged_experts.scores[0, "teacher-forced", d].kl.mean() > 1e-4
        assert not damaged_experts.routing("teacher-forced", d, 2).set_changed.any()


def test_a_router_alone_flips_only_where_it_is_damaged_itself(damaged_router, damaged_experts):
    for d in range(4):
        for layer in range(4):
            assert not damaged_experts.routing("router", d, layer).set_changed.any()
    flips = [damaged_router.routing("router", d, layer).set_changed for d in range(4) for layer in range(4)]
    assert 0.05 < np.concatenate(flips).mean() < 1


def test_a_flip_changes_the_blocks_output_more_than_damaged_scores_do(damaged_router):
    routing = [damaged_router.routing("own", d, 0) for d in range(4)]
    change = np.concatenate([r.block_change for r in routing])
    flipped = np.concatenate([r.set_changed for r in routing])
    assert (change > 0).all(), "the chosen experts' weights come from damaged logits too"
    assert change[flipped].mean() > 2 * change[~flipped].mean()


def test_an_undamaged_block_on_the_references_state_does_not_change(tiny, tmp_path):
    _, sink = run_pass(tiny("qwen3_moe"), [only("lm_head", tmp_path)], texts((20,)))
    assert not sink.routing("own", 0, 2).block_change.any()
    assert sink.scores[0, "accumulated", 0].kl.mean() > 1e-4


def test_flips_come_where_the_margin_is_small(damaged_router):
    flipped = np.concatenate([damaged_router.routing("router", d, 0).set_changed for d in range(4)])
    margin = np.concatenate([damaged_router.routing("router", d, 0).margin for d in range(4)])
    assert (margin >= 0).all()
    assert margin[flipped].mean() < margin[~flipped].mean()


def test_indices_margins_and_first_experts_are_those_of_the_models_own_routing(tiny):
    from mlx_lm.utils import load_model

    source, documents = tiny("qwen3_moe"), texts((30,))
    _, sink = run_pass(source, [Candidate("2", recipe=narrow("uniform-8bit", bits=2))], documents)
    model = in_float32(load_model(source, lazy=True)[0])
    logits = []

    def keep(call, args, kwargs):
        logits.append(call(*args, **kwargs))
        return logits[-1]

    for layer in model.layers:
        hook(layer.mlp.gate, keep)
    mx.eval(model(mx.array(documents[0].tokens)[None]))
    for i, found in enumerate(logits):
        rows = np.sort(np.array(found[0]), axis=1)[:, ::-1]
        k = model.args.num_experts_per_tok
        margin = sink.routing("accumulated", 0, i).margin
        assert np.allclose(margin, rows[:, k - 1] - rows[:, k], atol=1e-5)


@pytest.mark.slow
def test_a_text_in_chunks_routes_as_it_does_whole(tiny, tmp_path):
    candidate = only("router", tmp_path)
    whole = run_pass(tiny("qwen3_moe"), [candidate], texts((40,)), teacher_forced_routing=True)[1]
    parts = run_pass(tiny("qwen3_moe"), [candidate], texts((40,)), teacher_forced_routing=True, chunk=16)[1]
    for layer in range(4):
        a, b = (s.routing("accumulated", 0, layer) for s in (whole, parts))
        assert (a.set_changed == b.set_changed).mean() > 0.9
        assert len(b.margin) == 40
    assert not parts.scores[0, "teacher-forced", 0].kl.any()


def test_a_dense_model_has_no_routing_and_the_rest(tiny):
    _, sink = run_pass(
        tiny("llama"), [Candidate("4", recipe=narrow("gates-8bit", bits=4))], texts((9,)), teacher_forced_routing=True
    )
    assert sink.routing("accumulated", 0, 0) is None
    assert (0, "router", 0, 0) not in sink.layers
    assert np.array_equal(sink.scores[0, "teacher-forced", 0].kl, sink.scores[0, "accumulated", 0].kl)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_routing_is_seen_in_every_architecture_that_routes(tiny, architecture):
    result, sink = run_pass(tiny(architecture), [Candidate("4", recipe=narrow("gates-8bit", bits=4))], texts((40,)))
    seen = [s.routing for key, s in sink.layers.items() if key[1] == "accumulated" and s.routing is not None]
    assert bool(seen) == ROUTED[architecture]
    assert not [note for note in result.notes if "routing" in note]
    assert any(key[1] == "router" for key in sink.layers) == ROUTED[architecture]
    if seen:
        assert all(r.first_changed is not None and r.block_change is not None for r in seen)


def test_sets_are_compared_whatever_their_order_and_first_experts_by_score():
    mine = Seen(indices=[mx.array([[3, 1], [0, 2]])], router=[mx.array([[0.0, 3, 0, 2], [5, 0, 1, 0]])])
    other = Seen(indices=[mx.array([[1, 3], [0, 1]])], router=[mx.array([[0.0, 2, 0, 3], [5, 4, 1, 0]])])
    routing = compare_choices(choice_of(mine), choice_of(other))
    assert routing is not None
    assert routing.set_changed.tolist() == [False, True]
    assert routing.first_changed is not None
    assert routing.first_changed.tolist() == [True, False]
    assert routing.margin is not None
    assert routing.margin.tolist() == [2.0, 3.0]


def test_a_margin_is_absent_where_something_else_than_the_logits_decides():
    seen = Seen(indices=[mx.array([[0, 3]])], router=[mx.array([[1.0, 9.0, 0.0, 0.5]])])
    choice = choice_of(seen)
    assert choice is not None
    assert choice.margin is None
    assert choice.first is not None
    assert choice.first.tolist() == [0]


def test_scores_that_a_router_returns_with_its_indices_tell_the_first_expert():
    seen = Seen(indices=[mx.array([[4, 2]])], router=[(mx.array([[4, 2]]), mx.array([[0.1, 0.9]]))])
    choice = choice_of(seen)
    assert choice is not None
    assert choice.first is not None
    assert choice.first.tolist() == [2]
    assert choice.margin is None


def test_switch_router_and_block_are_found_by_structure(tiny):
    layout = read_layout(open_checkpoint(tiny("qwen3_moe")))
    places, notes = find_places(layout.model, layout.modules, [f"model.layers.{i}" for i in range(4)])
    assert sorted(places) == [0, 1, 2, 3]
    assert places[0].switch == "model.layers.0.mlp.switch_mlp"
    assert places[0].router == "model.layers.0.mlp.gate"
    assert places[0].block == "model.layers.0.mlp"
    assert notes == []


def test_layers_whose_experts_are_separate_modules_are_named(tiny):
    layout = read_layout(open_checkpoint(tiny("qwen3_moe")))
    split = [
        replace(m, path=m.path.replace("switch_mlp", f"experts.{n}")) if m.role == "expert" and m.layer == 1 else m
        for m in layout.modules
        for n in ((0, 1) if m.role == "expert" and m.layer == 1 else (0,))
    ]
    places, notes = find_places(layout.model, split, [f"model.layers.{i}" for i in range(4)])
    assert sorted(places) == [0, 2, 3]
    assert notes == ["routing is not seen in layer 1: its experts are separate modules"]
