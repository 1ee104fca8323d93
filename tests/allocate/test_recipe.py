"""The recipe of an allocation: few rules, the figures in them, and who ships of several."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mlxquant.allocate.contest import Contestant, final
from mlxquant.allocate.groups import FormatChoice, ModuleGroup, groups_of, halves
from mlxquant.allocate.measure import Probe, options_of, probes_of
from mlxquant.allocate.recipe import recipe_text
from mlxquant.allocate.rounds import Solved, allocate_in_rounds, refined
from mlxquant.allocate.shares import shared_out
from mlxquant.allocate.solve import Allocation, Option, allocate, frontier
from mlxquant.divergence.texts.documents import Document
from mlxquant.errors import DataError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe, parse_recipe
from mlxquant.source.checkpoint import Checkpoint, open_checkpoint
from mlxquant.words.formats import Format
from tests.checkpoints import Size, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Layout, list[ModuleGroup]]:
    folder = tmp_path_factory.mktemp("model")
    write_tiny(folder, "qwen3_moe", Size(layers=3, experts=4), shards=1)
    source = open_checkpoint(folder)
    layout = read_layout(source)
    return source, layout, groups_of(make_plan(layout, load_recipe("none"), source).modules)


def allocation(groups: list[ModuleGroup], formats: dict[str, Format]) -> Allocation:
    """8 bits but for the groups whose label begins so; of several beginnings the last counts."""
    options = []
    for group in groups:
        fmt = [fmt for label, fmt in formats.items() if group.label.startswith(label)][-1:] or [Format(8, 64)]
        options.append(Option(group.choice(fmt[0]), 0.001, measured=True))
    return Allocation(tuple(options))


def rules(groups: list[ModuleGroup], chosen: Allocation) -> list[dict[str, Any]]:
    table = tomllib.loads(recipe_text("x", "y", groups, chosen, reference="z"))
    return [rule for rule in table["rules"] if not rule.get("optional")]


def test_on_a_small_model_every_module_is_a_group_and_routers_are_none(model):
    _, _, groups = model
    assert all(len(group.modules) == 1 for group in groups)
    assert not any("router" in group.role for group in groups)


def test_layers_of_widths_that_share_no_group_size_are_groups_of_their_own(model):
    source, layout, _ = model
    planned = [p for p in make_plan(layout, load_recipe("none"), source).modules if p.module.path.endswith("q_proj")]
    module = planned[0].module
    narrow = replace(planned[0], module=replace(module, arrays=(replace(module.weight, shape=(64, 96)),)))
    groups = groups_of([narrow, *planned[1:]], limit=1, group_sizes=(32, 64))
    assert [[c.format.group_size for c in g.choices if c.format and c.format.bits == 4] for g in groups] == [
        [32],
        [64, 32],
    ]


def test_with_few_groups_neighbouring_layers_are_decided_together(model):
    source, layout, _ = model
    plan = make_plan(layout, load_recipe("none"), source)
    groups = groups_of(plan.modules, limit=1)
    assert {group.layers for group in groups} == {(), (0, 1, 2)}
    assert {p for group in groups for p in group.paths} == {p for group in groups_of(plan.modules) for p in group.paths}


def test_blocks_that_do_most_damage_are_decided_in_halves(model):
    """A first layer that is a hundred times as sensitive as the others, which a block of all three hides."""
    source, layout, _ = model
    groups = groups_of(make_plan(layout, load_recipe("none"), source).modules, limit=1, group_sizes=(64,))
    room = sum(group.choice(Format(4, 64)).nbytes for group in groups)

    def measured(groups: Sequence[ModuleGroup], probes: Sequence[Probe]) -> dict[str, float]:
        sensitive = {p.name(groups): sum(100.0 if m.module.layer == 0 else 1.0 for m in groups[p.group].modules)
                     for p in probes}  # fmt: skip
        return {p.name(groups): sensitive[p.name(groups)] * 4.0**-p.format.bits for p in probes}

    def solved(groups: Sequence[ModuleGroup], options: Sequence[Sequence[Option]]) -> list[Allocation]:
        return [allocate(groups, options, room)]

    outcome = allocate_in_rounds(groups, measured, solved)
    (first,), (last,) = solved(groups, options_of(groups, measured(groups, probes_of(groups)))), outcome.allocations
    assert len(groups) < len(outcome.groups) <= 1.25 * len(groups) + 1
    assert sorted(p for g in outcome.groups for p in g.paths) == sorted(p for g in groups for p in g.paths)
    assert last.damage < first.damage and last.nbytes <= room


def test_a_quarter_of_the_groups_is_cut_those_of_several_layers_that_do_most_damage_in_any_budget(model):
    source, layout, _ = model
    groups = groups_of(make_plan(layout, load_recipe("none"), source).modules, limit=1, group_sizes=(64,))
    several = [n for n, group in enumerate(groups) if len(group.layers) > 1]
    worst = several[1 : 1 + round(len(groups) / 4)]

    def solved(damages: dict[int, float]) -> Allocation:
        options = [Option(g.choice(None), damages.get(n, 0.001), measured=True) for n, g in enumerate(groups)]
        return Allocation(tuple(options))

    one = dict.fromkeys(range(len(groups)), 9.0) | dict.fromkeys(several, 0.1) | {worst[0]: 5.0}
    finer = refined(Solved(groups, [], [solved(one), solved(dict.fromkeys(worst[1:], 2.0))]))
    assert finer is not None
    assert [g for g in finer if g not in groups] == [half for n in worst for half in halves(groups[n])]
    assert refined(Solved(groups, [], [solved(dict.fromkeys(range(len(groups)), 0.0))])) is None


def test_a_block_in_halves_has_its_modules_formats_and_bytes(model):
    source, layout, _ = model
    for group in groups_of(make_plan(layout, load_recipe("none"), source).modules, limit=1):
        if len(group.layers) < 2:
            continue
        first, last = halves(group)
        assert (first.layers + last.layers, first.paths + last.paths) == (group.layers, group.paths)
        for whole, one, other in zip(group.choices, first.choices, last.choices, strict=True):
            assert whole.format == one.format == other.format
            assert (whole.nbytes, whole.active) == (one.nbytes + other.nbytes, one.active + other.active)


def test_one_format_throughout_needs_no_rule(model):
    _, _, groups = model
    assert rules(groups, allocation(groups, {})) == []


def test_a_kind_with_one_format_throughout_is_a_rule_without_layers(model):
    _, _, groups = model
    (rule,) = rules(groups, allocation(groups, {"expert mlp.switch_mlp.down_proj": Format(4, 32)}))
    assert rule["match"] == {"role": "expert", "path": "*.mlp.switch_mlp.down_proj"}
    assert (rule["bits"], rule["group_size"]) == (4, 32) and rule["reason"].startswith("3 mnat of KL for ")


def test_projections_of_a_role_with_one_format_are_one_rule(model):
    _, _, groups = model
    (rule,) = rules(groups, allocation(groups, {"expert": Format(4, 32)}))
    assert rule["match"] == {"role": "expert"}


@pytest.mark.parametrize(
    "formats",
    [
        {"expert": Format(3, 64), "expert mlp.switch_mlp.down_proj, layer 1": Format(6, 32)},
        {"attention self_attn.q_proj": Format(4, 64), "attention self_attn.q_proj, layer 2": Format(8, 64)},
        {"lm_head": Format(6, 32), "embedding": Format(5, 128)},
    ],
)
def test_the_text_gives_every_module_the_format_that_was_chosen(model, formats):
    source, layout, groups = model
    chosen = allocation(groups, formats)
    plan = make_plan(layout, parse_recipe(recipe_text("x", "y", groups, chosen), where="x"), source)
    wanted = {path: o.choice.format for g, o in zip(groups, chosen.options, strict=True) for path in g.paths}
    assert {p.module.path: p.format for p in plan.modules if p.module.path in wanted} == wanted
    assert sum(p.nbytes for p in plan.modules if p.module.path in wanted) == chosen.nbytes


def test_the_formats_of_one_bit_are_measured_only_where_they_are_asked_for(model):
    source, layout, _ = model
    plan = make_plan(layout, load_recipe("none"), source)
    assert not any(p.format.bits == 1 for p in probes_of(groups_of(plan.modules)))
    assert {p.format.bits for p in probes_of(groups_of(plan.modules, bits=(1,)))} == {1}


def test_the_frontier_falls_and_its_slope_too():
    def own(*damages: float) -> list[Option]:
        return [Option(FormatChoice(Format(4, 64), 10 * i, i), d, measured=True) for i, d in enumerate(damages, 1)]

    points = frontier([own(9, 5, 4.5, 1), own(3, 1, 0.5, 0.4)])
    slopes = [(a[1] - b[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    assert [points[0], points[-1]] == [(20, 12, 2), (80, 1.4, 8)]
    assert slopes == sorted(slopes, reverse=True)


# --- who ships ---


def ended(difference: float, documents: int) -> Any:
    rng = np.random.default_rng(0)
    base = rng.lognormal(0, 0.5, documents)
    kl = np.stack([base + difference * rng.lognormal(0, 0.3, documents), base, base + 0.5])
    recipe = load_recipe("uniform-8bit")
    others = [Contestant("best", recipe, 1, 4.5), Contestant("worse", recipe, 1, 4.5)]
    return final("mine", others, kl, np.full((3, documents), 10), ["mine", "best", "worse"], 0.95)


def test_the_solver_s_recipe_ships_only_where_its_interval_lies_below_zero():
    assert ended(-0.2, 20).ships == "mine"
    assert ended(0.0001, 20).ships == "best"
    assert "does more damage" in ended(0.2, 20).why


def test_the_best_contestant_ships_where_fewer_than_twenty_documents_check():
    assert ended(-0.2, 19).ships == "best"
    assert "19 documents" in ended(-0.2, 19).why


# --- documents ---


def documents(count: int, word: str = "a") -> list[Document]:
    tokens = np.arange(4, dtype=np.int32)
    hashes = [hashlib.sha256(f"{word} {i}".encode()).hexdigest()[:32] for i in range(count)]
    return [Document(h, tokens, np.zeros(4, np.int16), (), {}, h) for h in hashes]


def ids(given: list[Document]) -> set[str]:
    return {document.id for document in given}


def test_a_document_is_in_one_share_and_the_same_one_whatever_else_is_there():
    many = documents(60)
    whole, half = shared_out(many, calibrates=True), shared_out(many[::2], calibrates=True)
    assert sum(whole.counts().values()) == 60
    assert not ids(whole.allocate) & (ids(whole.check) | ids(whole.calibrate)) and not ids(whole.check) & ids(
        whole.calibrate
    )
    assert ids(half.check) <= ids(whole.check) and ids(half.allocate) <= ids(whole.allocate)


def test_what_calibrated_before_or_judges_is_in_no_other_share():
    many, judge = documents(40), documents(20, "b") + documents(3)
    before = many[10].content_hash
    shares = shared_out(many, calibrates=False, judge=judge, calibrated={before})
    assert ids(shares.check) == ids(judge)
    assert ids(shares.allocate) == ids(many[3:]) - {before}
    assert shares.left_out == 4


def test_copies_of_a_document_count_once():
    shares = shared_out(documents(40) * 2, calibrates=False, judge=documents(21, "b") * 3)
    assert (len(shares.allocate), len(shares.check), shares.left_out) == (40, 21, 82)


def test_too_few_documents_are_refused_with_how_many_each_purpose_has():
    with pytest.raises(DataError, match="1 documents leave"):
        shared_out(documents(1), calibrates=False)
