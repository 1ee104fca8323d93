"""mlx-lm's model classes: the same ones that mlx-lm itself finds, without what its import costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from mlxquant.errors import LayoutError
from mlxquant.layout.mlx_lm import build_model, decode_floats, model_classes
from tests.support.architectures import TABLE, config_of


def run(script: str) -> Any:
    """Run a script in a process of its own; give the JSON of its last line."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_experts", "x", 'num_experts is "x", a whole number expected'),
        ("rms_norm_eps", [1], r"rms_norm_eps is \[1\], a number expected"),
        ("mlp_only_layers", 0.5, r"mlp_only_layers is 0\.5, a list expected"),
        ("hidden_size", -1, "whole numbers above 0 are usual, but hidden_size is -1"),
        ("num_experts", None, "num_experts is null, a whole number expected"),
    ],
)
def test_a_value_of_another_type_is_named_and_not_what_python_makes_of_it(field, value, words):
    config = config_of(TABLE["qwen3_moe"]["config"]) | {field: value}
    with pytest.raises(LayoutError, match=rf"^config\.json: mlx-lm cannot build a qwen3_moe model from it: {words}$"):
        build_model(config)


ALL_CLASSES = """
import json, sys
from mlxquant.layout.mlx_lm import _mlx_lm_folder, _remappings, model_classes
from mlxquant.errors import LayoutError
names = {p.stem for p in (_mlx_lm_folder() / "models").glob("*.py")} | set(_remappings()["MODEL_REMAPPING"])
configs = [{"model_type": name} for name in sorted(names)]
configs += [{"model_type": t, "architectures": [a]} for t, a in _remappings()["MODEL_ARCHITECTURE_REMAPPING"]]
light, left = [], "mlx_lm" in sys.modules or "transformers" in sys.modules
for config in configs:
    try:
        light.append(model_classes(config))
    except LayoutError:
        light.append(None)
clean = not left and "mlx_lm" not in sys.modules and "transformers" not in sys.modules
from mlx_lm.utils import _get_classes
other = []
for config, found in zip(configs, light):
    try:
        model, args = _get_classes(config)
    except (ValueError, AttributeError, SystemExit):
        model = args = None
    if (found or (None, None)) != (model, args):
        other.append(config)
print(json.dumps([len([x for x in light if x]), other, clean]))
"""


def test_every_model_type_gives_the_classes_that_mlx_lm_gives():
    classes, other, clean = run(ALL_CLASSES)
    assert classes > 100 and other == [] and clean


def test_mlx_lm_imported_later_is_whole_and_has_the_same_classes():
    script = """
import json
from mlxquant.layout.mlx_lm import model_classes, mlx_lm_module
light = model_classes({"model_type": "llama"})
cache = mlx_lm_module("cache")
import mlx_lm
import mlx_lm.models.llama as llama
from mlx_lm.models import cache as other
from mlx_lm import load, generate
print(json.dumps([callable(mlx_lm.load), light == (llama.Model, llama.ModelArgs), cache is other,
    model_classes({"model_type": "llama"}) == light, mlx_lm.__name__]))
"""
    assert run(script) == [True, True, True, True, "mlx_lm"]


def test_finding_a_class_does_not_import_transformers():
    script = """
import json, sys
from mlxquant.layout.mlx_lm import model_classes
model_classes({"model_type": "qwen3_5_moe"})
print(json.dumps([m for m in ("transformers", "mlx_lm", "torch", "huggingface_hub") if m in sys.modules]))
"""
    assert run(script) == []


STRANGE = [
    "nope", "", "base", "cache", "switch_layers", "../../x", "a.b", "os", "__init__", "utils", "ssm", "é", " llama",
    "llama\n", "x" * 10_000, "llama.py",
]  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_a_model_type_that_names_no_model_is_unknown_and_nothing_else(name):
    with pytest.raises(LayoutError, match=r"has no model_type .*a newer mlx-lm may have it") as caught:
        model_classes({"model_type": name})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_strange_model_types_are_unknown_without_mlx_lm_as_well():
    script = f"""
import json
from mlxquant.layout.mlx_lm import model_classes
from mlxquant.errors import LayoutError
known = []
for name in {STRANGE!r}:
    try:
        model_classes({{"model_type": name}})
        known.append(name)
    except LayoutError:
        pass
print(json.dumps(known))
"""
    assert run(script) == []


def test_a_model_that_needs_another_package_says_so_and_prints_nothing(capsys):
    try:
        model_classes({"model_type": "olmo"})
    except LayoutError as error:
        assert "mlx-lm's olmo cannot be imported" in str(error)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("architectures", [None, "LlamaForCausalLM", ["x"], [3, None, ["x"]], {}, 7])
def test_architectures_of_any_kind_are_taken(architectures):
    assert model_classes({"model_type": "llama", "architectures": architectures})[0].__module__.endswith(".llama")


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1e300},
        {"hidden_size": 10**12},
        {"hidden_size": -1},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"vocab_size": None},
        {"rope_scaling": {"type": "nonsense"}},
        {"rope_scaling": 7},
        {"head_dim": [1]},
        {"rms_norm_eps": "small"},
    ],
)
def test_a_config_with_absurd_values_is_refused_or_built_but_never_a_crash(config):
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
    }
    sizes |= {"rms_norm_eps": 1e-6, "vocab_size": 100}
    try:
        build_model({"model_type": "llama", **sizes, **config})
    except LayoutError as error:
        assert str(error).startswith("config.json: ")


@pytest.mark.parametrize(
    ("field", "value", "ending"),
    [
        ("hidden_size", "64", "hidden_size is '64'"),
        ("num_attention_heads", 0, "num_attention_heads is 0"),
        ("vocab_size", 1.5, "vocab_size is 1.5"),
    ],
)
def test_a_size_that_is_no_size_is_named(field, value, ending):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}
    config = {"model_type": "llama", **sizes, "rms_norm_eps": 1e-6, "vocab_size": 100, field: value}
    with pytest.raises(LayoutError, match="from it: whole numbers above 0 are usual, but ") as caught:
        build_model(config)
    assert str(caught.value).endswith(ending)


def test_numbers_that_json_lacks_are_decoded():
    value = {"a": {"__float__": "Infinity"}, "b": [{"__float__": "-Infinity"}], "c": {"__float__": "x"}, "d": {"e": 1}}
    assert decode_floats(value) == {"a": float("inf"), "b": [float("-inf")], "c": {"__float__": "x"}, "d": {"e": 1}}
