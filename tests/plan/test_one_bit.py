"""Affine with one bit: as mlx has it, only where it is asked for by name, and with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxquant.builds.read.build import read_build
from mlxquant.check.against_source import compare_with_source
from mlxquant.check.audit import audit_build
from mlxquant.check.recipe import recipe_of_build
from mlxquant.errors import PlanError, RecipeError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import Plan, make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.formats import Format, shape_formats
from tests.builds.read.audit_builds import made_by_mlx_lm
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build, stored

EXPERT = "model.layers.0.mlp.switch_mlp.up_proj"


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "source"
    write_tiny(folder, "qwen3_moe", Size(layers=1, experts=4))
    return folder


def planned(source: Path) -> Plan:
    opened = open_checkpoint(source)
    return make_plan(read_layout(opened), load_recipe("mlx-lm-default", bits=1), opened)


def test_the_build_is_the_one_that_mlx_lm_makes_and_its_errors_are_measured_anew(qwen: Path, tmp_path: Path) -> None:
    theirs = made_by_mlx_lm(qwen, tmp_path / "theirs", quantize=True, q_bits=1, q_group_size=64)
    build(qwen, tmp_path / "ours", load_recipe("mlx-lm-default", bits=1))
    assert stored(tmp_path / "ours") == stored(theirs)
    own, other = read_build(tmp_path / "ours"), read_build(theirs)
    assert own.disagreements == other.disagreements == ()
    assert other.formats[EXPERT] == Format(1, 64)
    measured = audit_build(other, compare_with_source(other, open_checkpoint(qwen), threads=2))["totals"]["errors"]
    assert measured == audit_build(own)["totals"]["errors"]
    assert measured["relative_rms_error"] > 1
    assert "bits = 1" in recipe_of_build(theirs, "again", "")[0]


def test_a_plan_warns_of_one_bit(qwen: Path) -> None:
    assert any("at 1 bit: a weight becomes the smallest or the largest" in text for text in planned(qwen).warnings)


def test_an_mlx_that_lacks_it_is_named_with_the_version_that_has_it(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxquant.plan.decide.version", lambda _: "0.32.3")
    with pytest.raises(PlanError, match=r"1 bit needs mlx 0\.32\.4 or newer, 0\.32\.3 is installed"):
        planned(qwen)


def test_no_list_offers_it(qwen: Path) -> None:
    with pytest.raises(RecipeError, match="mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"):
        load_recipe("mlx-lm-default", bits=7)


def test_shapes_alone_mean_it_last() -> None:
    assert shape_formats(2, 1, "BF16") == [Format(2, 32), Format(1, 64)]
    assert shape_formats(1, 1, "BF16") == [Format(1, 32)]
