"""Measuring a real (tiny) build: what is timed is what mlx-lm computes, on caches as deep as asked for."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlxquant.bench.local import LocalModel, _decode, _fill, _new_cache, _prefill
from mlxquant.bench.prompts import own_text, random_tokens
from mlxquant.bench.run import Bench
from mlxquant.bench.workload import BenchSettings, Workload
from mlxquant.builds.facts import describe_build
from mlxquant.builds.read.build import read_build
from mlxquant.errors import BuildError, MeasurementError
from tests.checkpoints import Size, write_tiny
from tests.support.builds import build

SMALL = BenchSettings(prompts=(12,), generate=(4,), depths=(0, 9), repetitions=1, prefill_step_size=5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two builds of one model: routed experts, two layers."""
    root = tmp_path_factory.mktemp("bench")
    write_tiny(root / "source", "qwen3_moe", Size(layers=2))
    for recipe in ("gates-8bit", "uniform-8bit"):
        build(root / "source", root / recipe, recipe, audit=False)
    return [root / "gates-8bit", root / "uniform-8bit"]


@pytest.fixture(scope="module")
def local(folders):
    subject = LocalModel(read_build(folders[0]), own_text())
    subject.open()
    yield subject
    subject.close()


def by_mlx_lm(model, prompt, n):
    from mlx_lm.generate import generate_step

    return [token for token, _ in generate_step(mx.array(prompt), model, max_tokens=n, prefill_step_size=5)]


class Seen:
    """A model that remembers what tokens it was called with."""

    def __init__(self, model):
        self.model, self.inputs = model, []

    def __call__(self, tokens, cache):
        self.inputs.append(tokens.tolist())
        return self.model(tokens, cache=cache)


@pytest.mark.parametrize("depth", [0, 7])
def test_prefill_and_decode_compute_what_mlx_lm_generates(local, depth):
    prompt = local.tokenizer.encode(own_text().text)[: depth + 11]
    expected = by_mlx_lm(local.model, prompt, 5)
    cache, tokens = _new_cache(local.model), mx.array([prompt])
    _fill(local.model, tokens[:, :depth], cache, 5)
    first = _prefill(local.model, tokens[:, depth:], cache, 5)
    seen = Seen(local.model)
    stamps = _decode(seen, first, cache, 4)
    assert [first.item(), *(step[0][0] for step in seen.inputs[1:])] == expected[:4]
    assert len(stamps) == 4 and stamps == sorted(stamps)


def test_a_prompt_goes_in_by_steps_and_its_last_token_alone(local):
    seen = Seen(local.model)
    mx.eval(_prefill(seen, mx.arange(12)[None], _new_cache(local.model), 5))
    assert [len(tokens[0]) for tokens in seen.inputs] == [5, 5, 1, 1]


def test_every_step_is_fed_the_token_before(local):
    seen = Seen(local.model)
    _decode(seen, mx.array([3, 4], dtype=mx.uint32), _new_cache(local.model), 6)
    assert seen.inputs[0] == [[3], [4]]
    assert [len(step) for step in seen.inputs] == [2] * 6


def test_a_batch_gives_each_sequence_its_own_tokens(local):
    prompts = [local.tokenizer.encode(own_text().text)[i : i + 9] for i in (0, 30)]
    alone = [by_mlx_lm(local.model, prompt, 1)[0] for prompt in prompts]
    assert _prefill(local.model, mx.array(prompts), _new_cache(local.model), 5).tolist() == alone


def test_a_sample_counts_tokens_of_all_sequences(local):
    settings = BenchSettings(prompts=(12,), generate=(4,), batch=2)
    prefill, decode = (local.measure(w, settings, 1) for w in settings.workloads())
    assert (prefill.tokens, decode.tokens) == (24, 8)
    assert prefill.ttft_s == prefill.seconds > 0
    assert len(decode.token_s) == 4
    assert sum(decode.token_s) == pytest.approx(decode.seconds)


def test_peak_memory_is_the_builds_own_though_another_is_loaded(folders, local):
    weights = sum(s.nbytes for s in local.build.stored.values())
    other = LocalModel(read_build(folders[1]), own_text())
    alone = local.measure(Workload(n_prompt=12), SMALL, 1).peak_memory_bytes
    other.open()
    both = local.measure(Workload(n_prompt=12), SMALL, 1).peak_memory_bytes
    other.close()
    assert weights < alone < 1.5 * weights
    assert both == pytest.approx(alone, rel=0.01)


def test_random_tokens_run_too(folders):
    subject = LocalModel(read_build(folders[0]), random_tokens())
    subject.open()
    assert subject.measure(Workload(n_gen=2, n_depth=3), SMALL, 1).tokens == 2
    subject.close()


@pytest.mark.slow
def test_two_builds_are_measured_and_described(folders):
    record = Bench([LocalModel(read_build(f), own_text()) for f in folders], SMALL).run()
    assert [r["test"] for r in record["results"]] == [
        t for t in ("pp12", "tg4", "pp12 @ d9", "tg4 @ d9") for _ in folders
    ]
    assert all(r["tok_s"]["n"] == 1 and not r["failures"] for r in record["results"])
    assert [len(b["load_s"]) for b in record["builds"]] == [1, 1]
    gates, uniform = record["builds"]
    assert gates["recipe"]["name"] == "gates-8bit"
    assert len(gates["manifest_sha256"]) == 64
    assert gates["manifest_sha256"] != uniform["manifest_sha256"]


def test_a_build_of_another_tool_has_no_manifest_hash(folders, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for file in folders[0].iterdir():
        if file.name not in ("mlxquant.json", "audit.json"):
            (other / file.name).write_bytes(file.read_bytes())
    about = describe_build(read_build(other))
    assert about["manifest_sha256"] is None and about["recipe"] is None
    assert len(about["config_sha256"]) == 64


def test_a_build_that_mlx_lm_cannot_load_is_told_as_such(folders, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folders[0].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    subject = LocalModel(read_build(broken), own_text())
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(BuildError, match="broken: its tokenizer cannot be loaded"):
        subject.open()


@pytest.mark.parametrize("kind", [ValueError, AssertionError, ZeroDivisionError, OverflowError, NotImplementedError])
def test_a_model_that_cannot_run_gives_a_failure_and_no_figure(local, monkeypatch, kind):
    def fails(*_, **__):
        raise kind("[gather_mm] unsupported")

    monkeypatch.setattr(local, "model", fails)
    monkeypatch.setattr("mlxquant.bench.local._new_cache", lambda _: [])
    with pytest.raises(MeasurementError, match=rf"gates-8bit, pp4: {kind.__name__}: \[gather_mm\]") as error:
        local.measure(Workload(n_prompt=4), SMALL, 1)
    assert error.value.kind == "failed"
