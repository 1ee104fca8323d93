"""What fits a machine: the size of a context against what mlx-lm really allocates, the memory rule, the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from click.testing import CliRunner
from mlx.utils import tree_map

from mlxquant.cli import main
from mlxquant.errors import LayoutError, UsageError
from mlxquant.layout import context
from mlxquant.layout.context import ContextCost, Growth, context_cost
from mlxquant.layout.layout import read_layout
from mlxquant.layout.mlx_lm import build_model, decode_floats, mlx_lm_module
from mlxquant.plan.fits import Fit, Fits, Memory, find_fits, shipped_recipes
from mlxquant.plan.recipe.recipe import available, load_recipe
from mlxquant.report.plan import fits_text
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.words.units import parse_memory, parse_tokens, show_bytes, show_count
from tests.checkpoints import ARCHITECTURES, write_tiny

GiB = 2**30


def cost_of(path: Path, dtype: str | None = None) -> ContextCost:
    source = open_checkpoint(path)
    return context_cost(source.config, read_layout(source, dtype=dtype).modules)


def allocated(path: Path, tokens: int) -> int:
    """Bytes that the caches really hold after a prompt and two decoded tokens, computed in float32."""
    model = build_model(decode_floats(open_checkpoint(path).config))
    model.eval()
    model.update(tree_map(as_float32, model.parameters()))
    caches = mlx_lm_module("cache").make_prompt_cache(model)
    for length in (tokens - 2, 1, 1):
        mx.eval(model(mx.zeros((1, length), dtype=mx.int32), cache=caches))
    return sum(cache.nbytes for cache in caches)


def as_float32(array: mx.array) -> mx.array:
    return array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array


# --- the size of a context ---


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_context_costs_what_mlx_lm_allocates(tmp_path, architecture):
    write_tiny(tmp_path / "tiny", architecture)
    cost = cost_of(tmp_path / "tiny", "float32")
    assert cost.method == "model"
    assert cost.at(300) == allocated(tmp_path / "tiny", 300)  # beyond one step of 256 tokens


def test_a_chunked_cache_costs_what_mlx_lm_allocates(tmp_path):
    write_tiny(tmp_path / "tiny", "llama4")
    config = tmp_path / "tiny/config.json"
    table = json.loads(config.read_text())
    table["text_config"]["attention_chunk_size"] = 100
    config.write_text(json.dumps(table))
    assert cost_of(config, "float32").at(300) == allocated(config, 300)


def test_a_hybrid_models_state_does_not_grow(shared):
    cost = cost_of(shared / "reference/configs/Qwen3.5-122B-A10B.json")
    # 12 full-attention layers x 2 x 2 KV heads x 256 x bf16; 36 linear ones: float32 state, bf16 convolution
    state = 64 * 128 * 128 * 4 + 3 * 12_288 * 2
    assert cost.at(32_768) == 32_768 * 12 * 2 * 2 * 256 * 2 + 36 * state


def test_latent_attention_keeps_its_latent_alone(shared):
    cost = cost_of(shared / "reference/configs/DeepSeek-V3.json")
    assert cost.at(4096) == 4096 * 61 * (512 + 64) * 2


def test_a_sliding_window_is_a_limit(shared):
    cost = cost_of(shared / "reference/configs/gpt-oss-20b.json")
    token = 2 * 8 * 64 * 2
    assert cost.at(131_072) == 12 * 131_072 * token + 12 * 128 * token


@pytest.mark.slow
def test_nothing_is_computed_to_see_a_context(shared):
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    cost_of(shared / "reference/configs/Qwen3-235B-A22B.json")
    assert mx.get_peak_memory() - before < 1_000_000


def test_a_model_that_evaluates_is_counted_from_its_config():
    config = {
        "model_type": "dbrx", "vocab_size": 64, "d_model": 64, "n_layers": 3, "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000},
    }  # fmt: skip
    cost = context_cost(config, ())
    assert cost.method == "formula"
    assert cost.note is not None
    assert "it calls tolist" in cost.note
    assert cost.at(300) == 3 * 2 * 2 * 16 * 2 * 512


def test_a_config_that_tells_nothing_is_an_error(monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError("an architecture that cannot be run")

    monkeypatch.setattr(context, "_measured", fail)
    with pytest.raises(LayoutError, match="does not tell the size of the KV cache"):
        context_cost({"model_type": "llama"}, ())


def test_what_would_evaluate_is_stopped_and_works_again_afterwards():
    array = mx.array([1.0])
    uses: list[Callable[[], object]] = [
        lambda: mx.eval(array), lambda: array.item(), lambda: array.tolist(), lambda: bool(array), lambda: int(array),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(context._Evaluated), context._nothing_evaluated():
            use()
    assert array.tolist() == [1.0]
    assert array.item() == 1.0
    assert bool(array)
    mx.eval(nn.Linear(2, 2).parameters())


@pytest.mark.parametrize(
    ("growth", "tokens", "size"),
    [
        (Growth(0, 10, 256, None), 1, 2560),
        (Growth(0, 10, 256, None), 257, 5120),
        (Growth(100, 0, 1, None), 10**6, 100),
        (Growth(0, 10, 256, 128), 10**6, 1280),
        (Growth(0, 10, 256, 1000), 300, 5120),
    ],
)
def test_a_cache_grows_by_steps_up_to_its_limit(growth, tokens, size):
    assert growth.at(tokens) == size


# --- memory ---


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("96GB", 96 * GiB),
        ("96GiB", 96 * GiB),
        ("96g", 96 * GiB),
        ("512 MB", 2**29),
        ("1.5 tb", 1536 * GiB),
        ("1048576", 2**20),
    ],
)
def test_memory_is_read_as_it_is_sold(text, size):
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("text", "tokens"), [("32k", 32_768), ("131072", 131_072), ("131,072", 131_072), ("1M", 2**20)]
)
def test_a_context_is_read_as_models_state_it(text, tokens):
    assert parse_tokens(text) == tokens


def test_a_small_number_without_a_unit_is_not_taken_for_bytes():
    with pytest.raises(UsageError, match="512 MB expected; a number alone is bytes"):
        parse_memory("96")


@pytest.mark.parametrize("text", ["", "GB", "lots", "-1GB", "0", "1e3", "96 GBs", "nan"])
def test_what_is_no_size_says_what_one_looks_like(text):
    with pytest.raises(UsageError, match="96GB, 96GiB, 512 MB expected"):
        parse_memory(text)
    with pytest.raises(UsageError, match="32k or 131072 expected"):
        parse_tokens(text)


@pytest.mark.parametrize(("total", "usable"), [(32, 32 * 2 / 3), (36, 27), (96, 72), (512, 384)])
def test_macos_lets_the_gpu_wire_three_quarters_from_36_gib_on(total, usable):
    memory = Memory(total * GiB)
    assert memory.usable == int(usable * GiB)
    assert memory.usable + memory.headroom == memory.total


def test_sizes_are_shown_in_binary_and_counts_in_decimal_units():
    assert show_bytes(125_966_246_400) == "117.32 GiB"
    assert show_bytes(1023) == "1023 B"
    assert show_count(122_111_526_912) == "122.1 B"
    assert show_count(999) == "999"


# --- the verdict ---


@pytest.fixture(scope="session")
def paper_fits(shared: Path) -> Fits:
    source = open_checkpoint(shared / "reference/configs/Qwen3.5-122B-A10B.json")
    return find_fits(read_layout(source), source, [*shipped_recipes()], Memory(96 * GiB), 32_768)


def test_every_shipped_recipe_is_held_against_the_memory(paper_fits):
    assert {fit.recipe for fit in paper_fits.recipes} == {shipped.name for shipped in available()}
    widths = [fit.bpw for fit in paper_fits.recipes]
    assert widths == sorted(widths, reverse=True)


def test_weights_and_cache_must_find_room(paper_fits):
    for fit in paper_fits.recipes:
        assert fit.needed == fit.bytes + paper_fits.context_bytes
        assert fit.fits == (fit.needed <= 72 * GiB)


def test_the_best_is_what_measurements_speak_for_and_not_merely_the_most_bits(shared, paper_fits):
    assert paper_fits.best.recipe == "gates-4bit"  # though mixed-4-6 and deepseek-4bit fit
    source = open_checkpoint(shared / "reference/configs/Qwen3.5-122B-A10B.json")
    roomy = find_fits(read_layout(source), source, [*shipped_recipes()], Memory(512 * GiB), 32_768)
    record = roomy.as_dict()
    assert all(fit["fits"] for fit in record["recipes"])
    assert record["best"] == "gates-8bit"
    assert "cost 5.3 % of decode and 30.4 % of prefill" in record["why"]
    assert any("Ahmed 2026" in source for source in record["sources"])
    assert len(record["not_known"]) == 1 and "no unquantized baseline" in record["not_known"][0]


def test_of_another_model_it_is_said_that_the_measurements_are_not_of_it(shared):
    source = open_checkpoint(shared / "reference/configs/Qwen3-30B-A3B.json")
    record = find_fits(read_layout(source), source, [*shipped_recipes()], Memory(512 * GiB), 4096).as_dict()
    assert record["best"] == "gates-8bit"
    assert record["not_known"][-1] == "all of this is of other models: `mlxquant compare` and `eval` measure yours"


def test_overrides_make_other_builds_for_which_nothing_was_measured(tiny_qwen):
    record = json.loads(typed(tiny_qwen, "--fits", "8GB", "--bits", "6", "--json"))
    assert record["best"] == "deepseek-4bit"  # as changed: 6 bits in groups of 64
    assert record["why"].startswith("the least quantized of these that fits; nothing was measured of any of them with")
    assert record["not_known"] == ["`mlxquant compare` and `eval` measure yours"]


def test_without_a_context_it_is_at_most_what_the_model_was_made_for(tiny_qwen):
    longest = context.longest_context(json.loads((tiny_qwen / "config.json").read_text()))
    tokens = json.loads(typed(tiny_qwen, "--fits", "8GB", "-r", "none", "--json"))["context"]["tokens"]
    assert longest is not None and tokens == min(longest, 32_768)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 262144}, "max_position_embeddings": 8}, 262144),
        ({"n_positions": 2048}, 2048),
        ({"max_position_embeddings": 40960, "rope_scaling": {"factor": 4, "original_max_position_embeddings": 32768}},
         131072),
        ({"max_position_embeddings": "many"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_longest_context_is_the_configs_with_stretched_positions(config, longest):
    assert context.longest_context(config) == longest


def test_a_context_beyond_the_models_is_refused(tiny_qwen):
    longest = context.longest_context(json.loads((tiny_qwen / "config.json").read_text()))
    assert longest is not None
    for words in (["--fits", "8GB"], ["-r", "none", "--chip", "M3 Ultra"]):
        result = CliRunner().invoke(main, ["plan", str(tiny_qwen), *words, "--context", str(longest + 1)])
        assert result.exit_code == 2
        assert f"was made for {longest:,} tokens at most" in result.output
        assert CliRunner().invoke(main, ["plan", str(tiny_qwen), *words, "--context", str(longest)]).exit_code == 0


@pytest.mark.slow
def test_speeds_stand_with_the_recipes_in_80_columns(shared):
    config = shared / "reference/configs/Qwen3.5-122B-A10B.json"
    text = typed(config, "--fits", "96GB", "--chip", "M3 Ultra")
    assert max(map(len, text.splitlines())) <= 80
    assert "95 % interval" in text and "outside     context: 32,768 tokens" in text
    bounds = typed(config, "--fits", "96GB", "--chip", "M4", "-r", "gates-4bit")
    assert "≤ " in bounds and "no published points" in " ".join(bounds.split())


def test_a_plan_says_how_fast_it_decodes_on_the_chips_asked_for(tiny_qwen, tmp_path):
    record = json.loads(typed(tiny_qwen, "-r", "none", "--chip", "M3 Ultra", "--context", "64", "--json"))
    assert record["speed"]["settings"]["depths"] == [0, 64]
    first = record["speed"]["chips"][0]
    assert first["calibration"]["points"] == 18
    assert first["decode_tok_s"]["64"][0]["tok_s"] < first["decode_ceiling_tok_s"]["64"][0]
    assert "speed" not in json.loads(typed(tiny_qwen, "-r", "none", "--json"))
    assert "Decode expected in tok/s at depth 64" in typed(
        tiny_qwen, "-r", "none", "--chip", "M3 Ultra", "--context", "64"
    )


@pytest.mark.parametrize("words", [["-r", "none"], ["--fits", "8GB", "--context", "1k"], ["-r", "none", "--json"]])
def test_plan_writes_what_it_prints_and_never_over_a_file(tiny_qwen, tmp_path, words):
    out = tmp_path / "plan.txt"
    assert typed(tiny_qwen, *words, "-o", out) == out.read_text()
    again = CliRunner().invoke(main, ["plan", str(tiny_qwen), *words, "-o", str(out)])
    assert (again.exit_code, "already exists" in again.output) == (3, True)


def test_a_recipe_that_is_shipped_as_a_warning_is_never_the_best(shared):
    source = open_checkpoint(shared / "reference/configs/Qwen3.5-122B-A10B.json")
    recipes = [load_recipe("naive-linear-8bit"), load_recipe("gates-8bit")]
    fits = find_fits(read_layout(source), source, recipes, Memory(512 * GiB), 4096)
    assert all(fit.fits for fit in fits.recipes)
    assert fits.best is not None
    assert fits.best.recipe == "gates-8bit"


def test_a_recipe_that_a_model_cannot_have_says_why(shared):
    source = open_checkpoint(shared / "reference/configs/gpt-oss-20b.json")
    fits = find_fits(read_layout(source), source, [*shipped_recipes(group_size=128)], Memory(16 * GiB), 4096)
    unfit = {fit.recipe: fit for fit in fits.recipes if fit.problem}
    assert "group size 128" in str(unfit["gates-8bit"].problem)
    assert not unfit["gates-8bit"].fits
    text = " ".join(fits_text(fits.as_dict()).split())
    assert "group size 32 or 64 would, or leave them with --unaligned keep" in text


def test_where_nothing_fits_the_text_says_how_much_is_missing(paper_fits):
    small = Fits(paper_fits.source, (), Memory(16 * GiB), 4096, paper_fits.cost, (Fit("a", "x", 9, 4.0, 9, -3 * GiB),))
    assert "nothing fits: the smallest, a, is 3.00 GiB too large" in fits_text(small.as_dict())


def test_a_pitfall_alone_that_fits_is_not_said_to_be_too_large(paper_fits):
    recipes = (Fit("naive-linear-8bit", "x", 9, 15.6, 9, GiB),)
    text = fits_text(Fits(paper_fits.source, (), Memory(16 * GiB), 4096, paper_fits.cost, recipes).as_dict())
    assert "too large" not in text and "best        not named: naive-linear-8bit fits" in text


def test_a_pitfall_that_fits_is_said_to_be_passed_over(paper_fits):
    recipes = (Fit("naive-linear-8bit", "x", 9, 15.6, 9, GiB), Fit("a", "x", 9, 8.0, 9, GiB))
    text = " ".join(
        fits_text(Fits(paper_fits.source, (), Memory(16 * GiB), 4096, paper_fits.cost, recipes).as_dict()).split()
    )
    assert "best a: the least quantized of these that fits; nothing was measured of any of them" in text


def test_the_text_fits_80_columns(paper_fits):
    assert max(map(len, fits_text(paper_fits.as_dict()).splitlines())) <= 80


# --- as a person types it ---


def typed(*args: object) -> str:
    result = CliRunner().invoke(main, ["plan", *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.output


def test_plan_fits_prints_the_table_and_the_best(tiny_qwen):
    output = typed(tiny_qwen, "--fits", "8GB", "--context", "1k")
    assert "1,024 tokens of one sequence" in output
    assert "5.33 GiB for weights and cache" in output
    assert "best        gates-8bit: 8 bits with the routers kept" in output


def test_plan_fits_as_json_is_one_record(tiny_qwen):
    record = json.loads(typed(tiny_qwen, "-r", "gates-8bit", "--fits", "8GB", "--json"))
    assert record["schema"] == "mlxquant.fits/2"
    assert record["context"]["tokens"] == 32_768
    assert [fit["recipe"] for fit in record["recipes"]] == ["gates-8bit"]
    assert record["best"] == "gates-8bit"
    assert record["recipes"][0]["needed_bytes"] == record["recipes"][0]["bytes"] + record["context"]["bytes"]


def test_a_memory_that_no_recipe_fits_ends_with_2_after_the_table(tiny_qwen, tmp_path):
    done = CliRunner().invoke(main, ["plan", str(tiny_qwen), "--fits", "0.1MB", "-o", str(tmp_path / "fits.txt")])
    assert done.exit_code == 2 and done.stdout == (tmp_path / "fits.txt").read_text()
    assert "nothing fits: the smallest" in done.stdout and done.stderr.startswith(
        "mlxquant: --fits 0.1MB: nothing fits"
    )


def test_overrides_hold_for_every_recipe(tiny_qwen):
    record = json.loads(typed(tiny_qwen, "--fits", "8GB", "--group-size", "32", "--json"))
    assert record["overrides"] == ["--group-size 32"]
    problems = {fit["recipe"]: fit["problem"] for fit in record["recipes"] if fit["problem"]}
    assert list(problems) == ["none"]
    reasons = {fit["recipe"]: fit["reason"] for fit in record["recipes"] if "reason" in fit}
    assert reasons == {"none": "none has no default format to change; use another recipe or --set"}


def test_why_a_model_cannot_have_a_recipe_stands_without_the_names_of_its_modules(shared):
    source = open_checkpoint(shared / "reference/configs/gpt-oss-20b.json")
    rule = load_recipe("gates-8bit", sets=["path=*.gate_prj:bits=8"], unaligned="keep")
    fits = find_fits(read_layout(source), source, [load_recipe("gates-8bit", group_size=128), rule], Memory(GiB), 1)
    reasons = [fit.as_dict()["reason"] for fit in fits.recipes]
    assert reasons[0].startswith("group size 128 (the default) does not divide the input dimension 2880; group size")
    assert reasons[1].startswith("path '*.gate_prj' matches no module")


@pytest.mark.parametrize("args", [["--fits", "much"], ["--fits", "8GB", "--context", "long"], ["--context", "32k"]])
def test_what_makes_no_sense_is_a_usage_error(tiny_qwen, args):
    result = CliRunner().invoke(main, ["plan", str(tiny_qwen), *args])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
