"""What a plan says a build costs to run: bytes of a token, ceilings by chip, and the paper's figures beside them."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mlxquant.bench.chips import CHIPS, Chip, chips_named, find_chip
from mlxquant.bench.predict import decode_ceiling, prediction, prefill_estimate, published
from mlxquant.bench.workload import BenchSettings
from mlxquant.builds.facts import traffic_of_build, traffic_of_plan
from mlxquant.builds.read.build import read_build
from mlxquant.cli import main
from mlxquant.errors import LayoutError
from mlxquant.layout.layout import read_layout
from mlxquant.plan.plan import make_plan
from mlxquant.plan.recipe.recipe import load_recipe
from mlxquant.report.predict import prediction_text
from mlxquant.source.checkpoint import open_checkpoint
from tests.support.builds import build

SMALL_CHIP = Chip("test", 1, 1.0, "a test", "-", 0.001)


def planned(source, recipe, **overrides):
    opened = open_checkpoint(source)
    return traffic_of_plan(make_plan(read_layout(opened), load_recipe(recipe, **overrides), opened), opened)


@pytest.fixture(scope="module")
def paper(shared):
    config = shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json"
    return [planned(config, recipe) for recipe in ("gates-8bit", "deepseek-8bit")]


# --- chips ---


def test_every_chip_has_a_bandwidth_with_its_source():
    assert all(chip.bandwidth_gbs > 0 and chip.source and chip.seen for chip in CHIPS)
    assert len({(chip.name, chip.gpu_cores) for chip in CHIPS}) == len(CHIPS)


@pytest.mark.parametrize("generation", range(1, 6))
@pytest.mark.parametrize("tier", ["", " Pro", " Max", " Ultra"])
def test_the_table_has_every_chip_that_was_made(generation, tier):
    made = (generation, tier) != (4, " Ultra")
    assert bool(chips_named(f"Apple M{generation}{tier}")) == made


def test_a_larger_chip_of_a_generation_is_never_slower():
    for generation in range(1, 6):
        mine = [c for c in CHIPS if c.name.startswith(f"M{generation}")]
        assert [c.bandwidth_gbs for c in mine] == sorted(c.bandwidth_gbs for c in mine)


def test_a_machines_chip_is_found_by_name_and_gpu():
    small, large = chips_named("Apple M4 Max")
    assert (small.bandwidth_gbs, large.bandwidth_gbs) == (410, 546)
    assert find_chip("Apple M4 Max", 32) == small
    assert find_chip("Apple M4 Max", 40) == large
    assert find_chip("Apple M4 Max") == large  # a ceiling takes the faster
    assert find_chip("AMD EPYC") is None
    assert find_chip(None) is None


# --- traffic ---


def test_the_papers_builds_are_recognized_by_their_bytes(paper):
    assert [t.total_bytes for t in paper] == [125_966_246_400, 128_358_474_240]
    known = [published(t) for t in paper]
    assert [figures.label for figures in known if figures] == ["base", "agentic"]


def test_the_papers_decode_ceiling_is_bandwidth_over_what_a_token_reads(paper):
    base, agentic = paper
    chip = chips_named("M3 Ultra")[-1]
    assert (base.active_bytes, agentic.active_bytes) == (9_328_701_024, 10_981_931_520)
    assert decode_ceiling(base, chip.bandwidth, 0) == pytest.approx(819e9 / (9_328_701_024 + 153_649_152))
    figures = published(base)
    assert figures is not None and figures.decode_tok_s < decode_ceiling(base, chip.bandwidth, 0)


def test_precision_moves_a_prompts_arithmetic_between_formats_and_does_not_change_it(paper):
    base, agentic = paper
    assert base.flops_per_token == agentic.flops_per_token
    assert list(base.matmul) == list(agentic.matmul) == ["8-bit g128", "bf16"]
    assert base.matmul["bf16"] < agentic.matmul["bf16"]
    assert agentic.head == {"bf16": 248_320 * 3072}


def test_a_depth_beyond_the_models_context_is_refused(shared):
    config = str(shared / "reference" / "configs" / "Qwen3.5-122B-A10B.json")
    words = ["bench", "--predict", config, "--recipe", "gates-8bit", "-d", "0,300000"]
    refused = CliRunner().invoke(main, words)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "-d 300,000: Qwen3.5-122B-A10B.json was made for 262,144 tokens at most" in refused.stderr


def test_the_cache_grows_by_the_twelve_attention_layers(paper):
    grown = paper[0].cache_bytes(4096) - paper[0].cache_bytes(0)
    assert grown == 4096 * 12 * 2 * 2 * 256 * 2  # layers, K and V, heads, head size, bytes


def test_more_sequences_share_the_weights(paper):
    base = paper[0]
    assert base.bytes_at(0, 4) == base.active_bytes / 4 + base.cache_bytes(0)
    assert decode_ceiling(base, 819e9, 0, 4) < 4 * decode_ceiling(base, 819e9, 0)


def test_a_prompt_is_bound_by_arithmetic_or_by_reading_all_weights(paper):
    base = paper[0]
    slow, fast = (Chip("t", 1, 819, "-", "-", tflops) for tflops in (1.0, 1e6))
    assert prefill_estimate(base, slow, 2048) == pytest.approx(1e12 / base.flops_per_token, rel=0.001)
    assert prefill_estimate(base, fast, 512) == pytest.approx(512 * 819e9 / base.weights_for(512))
    assert base.weights_for(512) == pytest.approx(base.total_bytes, rel=0.01)  # all but rows of the embedding
    assert prefill_estimate(base, Chip("t", 1, 819, "-", "-", None), 512) is None


def test_a_short_prompt_reads_the_experts_that_its_tokens_choose(paper):
    base = paper[0]
    ((nbytes, k, n),) = base.experts
    assert (k, n) == (8, 256)
    assert base.weights_for(1) == pytest.approx(base.active_bytes, abs=1)
    distinct = 256 * (1 - (1 - 8 / 256) ** 10)
    assert distinct == pytest.approx(69.7, abs=0.1)
    assert base.weights_for(10) - base.weights_for(1) == pytest.approx(nbytes * (distinct - 8) / 256)
    fast = Chip("t", 1, 819, "-", "-", 1e6)
    assert prefill_estimate(base, fast, 10) == pytest.approx(10 * 819e9 / base.weights_for(10))


def test_layers_are_counted_by_kind(paper, tiny):
    assert (paper[0].dense_layers, paper[0].moe_layers) == (0, 48)
    mixed = planned(tiny("deepseek_v3"), "gates-8bit", group_size=32, unaligned="keep")
    assert mixed.dense_layers and mixed.moe_layers


@pytest.mark.parametrize("architecture", ["deepseek_v3", "gpt_oss", "llama", "qwen3_5_moe"])
def test_a_build_costs_what_its_plan_said(tiny, tmp_path, architecture):
    before = planned(tiny(architecture), "gates-8bit", group_size=32, unaligned="keep")
    build(tiny(architecture), tmp_path / "build", audit=False)
    after = traffic_of_build(read_build(tmp_path / "build"))
    for what in ("model_type", "parameters", "total_bytes", "active_bytes", "matmul", "head", "cache", "experts"):
        assert getattr(after, what) == getattr(before, what), what


def test_a_model_that_nobody_can_run_has_no_traffic(tiny, tmp_path):
    build(tiny("llama"), tmp_path / "build", audit=False)
    config = tmp_path / "build" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"llama_of_tomorrow"'))
    with pytest.raises(LayoutError, match="mlx-lm has no class for 'llama_of_tomorrow'"):
        traffic_of_build(read_build(tmp_path / "build"))


# --- the record and its text ---


def test_the_papers_table_stands_beside_the_prediction(paper):
    record = prediction(paper, chips_named("M3 Ultra"), BenchSettings())
    text = prediction_text(record)
    assert "gates-8bit (base)             86.4        41.8      37.8        1722       38.8" in text
    assert "deepseek-8bit (agentic)       73.5        37.9      35.8        1722       27.0" in text
    assert "decode -14.8 % by bytes, -9.3 % expected, -5.3 %" in text
    assert "Nothing here was run on Apple hardware by us" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_build_that_is_not_the_papers_has_no_published_figures(paper, tiny):
    other = planned(tiny("qwen3_5_moe"), "gates-8bit", group_size=32)
    assert published(other) is None
    text = prediction_text(prediction([other], chips_named("M3 Ultra"), BenchSettings()))
    assert "beside published" not in text


def test_the_record_gives_every_chips_source_and_ceilings(tiny):
    traffics = [planned(tiny("mixtral"), "gates-8bit", group_size=32)]
    record = prediction(traffics, [SMALL_CHIP], BenchSettings(depths=(0, 64), prompts=(8,)))
    assert record["schema"] == "mlxquant.predict/2"
    (chip,) = record["chips"]
    assert chip["source"] == "a test"
    assert set(chip["decode_ceiling_tok_s"]) == {"0", "64"}
    assert chip["decode_ceiling_tok_s"]["0"][0] > chip["decode_ceiling_tok_s"]["64"][0]
    assert record["builds"][0]["prefill_flops_per_token"]


def test_all_chips_fit_a_terminal_of_80_columns(paper):
    record = prediction(paper, CHIPS, BenchSettings(depths=(0, 65536), prompts=(512, 2048)))
    assert max(map(len, prediction_text(record).splitlines())) <= 80


def test_the_change_from_one_build_to_the_other_is_that_of_the_amounts_not_of_their_rounded_texts(paper):
    record = prediction(paper, chips_named("M3 Ultra"), BenchSettings())
    for entry, amount in zip(record["builds"], (1_000_400_000, 1_099_600_000), strict=True):
        entry["prefill_flops_per_token"] = {"8-bit g64": amount}
    row = next(line for line in prediction_text(record).splitlines() if "token, 8-bit g64" in line)
    assert row.split()[-4:] == ["1.000", "1.100", "+9.9", "%"]  # 1.1000 over 1.0000 would be +10.0 %
