"""mlx-vlm's model classes: text models that mlx-lm lacks, and vision models with their towers.

A model is built as `mlx_vlm.utils.load_model` (0.7.10) builds it: the config's text, vision and audio tables become
config objects of their own, and tensors go through the `sanitize` of the model and of each of its parts in turn.
`import mlx_vlm` costs two seconds, for transformers, OpenCV and more; the classes alone do not, and are imported
without it (some import a processor of transformers themselves). Drafters, which mlx-vlm also finds by `model_type`, are
no models here.

mlx-vlm's converter never quantizes a tower; it goes by what a path contains (`_tower_words`, read from its source).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import MODEL_ERRORS, LayoutError
from ..source.headers import shown
from .mlx_lm import LONGEST_NAME, check_counts, unusual

NAME = "mlx-vlm"
INSTALL = "pip install 'mlxquant[vlm]'"
_QUIET = {"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "TRANSFORMERS_VERBOSITY": "error"}
_PARTS = ("text", "vision", "perceiver", "projector", "audio")

# The `model_type` of mixtures of experts that mlx-vlm 0.7.10 has and mlx-lm 0.32.2 lacks, so that they can be named
# where mlx-vlm is not installed. `python -m benchmarks.mlx_vlm_models --listed` lists them anew.
LISTED = frozenset({
    "cohere2_moe", "cohere2moe", "deepseek_v4", "deepseek_vl_v2", "deepseekocr", "deepseekocr_2", "diffusion_gemma",
    "embedding_gemma2", "ernie4_5_moe_vl", "flint", "glm4v_moe", "glm5_next", "hunyuan_vl", "hy_v4", "inkling",
    "inkling_mm_model", "kolibri1", "llada2_moe", "longcat_flash_sparse", "mimo_v2", "minicpmv4_7", "minimax_m3",
    "mistral_large3", "moondream3", "nemotron_h_nano_omni", "nemotron_h_omni", "nemotron_voicechat",
    "nemotronh_nano_omni_reasoning_v3", "openai_privacy_filter", "qwen3_5_moe_text", "qwen3_omni_moe", "qwen4_exp",
    "step3p7", "unlimited-ocr", "unlimited_ocr", "xing4_0", "youtu_vl", "zaya1_vl",
})  # fmt: skip


class MlxVlm:
    """mlx-vlm: text and vision models; their towers are part of the class, and of the build."""

    name, whole = NAME, True

    def version(self) -> str:
        from importlib.metadata import version

        return version(NAME)

    def knows(self, config: Mapping[str, Any]) -> bool:
        return is_installed() and _package_of(config) is not None

    def prepared(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with a table, if an empty one, for text, vision and audio each."""
        table = deepcopy(dict(config))
        text = table.pop("llm_config", {})
        return {"text_config": text, "vision_config": {}, "audio_config": {}, **table}

    def import_class(self, config: Mapping[str, Any]) -> None:
        require(config)
        _imported(config)

    def build_model(self, config: Mapping[str, Any]) -> Any:
        require(config)
        check_counts(config)
        arch = _imported(config)
        try:
            return arch.Model(_model_config(arch, config))
        except MODEL_ERRORS as error:
            reason, doubts = str(error).partition("\n")[0], "; ".join(unusual(config))
            raise LayoutError(
                f"config.json: mlx-vlm cannot build a {shown(config['model_type'])} model from it"
                f" ({type(error).__name__}: {reason})"
                + (f"; whole numbers above 0 are usual, but {doubts}" if doubts else "")
            ) from error

    def sanitize(self, model: Any, config: Mapping[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
        arch = _imported(config)
        settings = _model_config(arch, config)
        if hasattr(model, "sanitize"):
            weights = model.sanitize(weights)
        for part, table in (("Vision", "vision_config"), ("Language", "text_config"), ("Audio", "audio_config")):
            part_class = getattr(arch, f"{part}Model", None)
            if part_class is not None and hasattr(settings, table) and hasattr(part_class, "sanitize"):
                weights = part_class(getattr(settings, table)).sanitize(weights)
        return dict(weights)

    def rule(self, model: Any) -> Callable[[str, Any], Any]:
        own = getattr(model, "quant_predicate", None)

        def rule(path: str, module: Any) -> Any:
            if self.is_tower(path):
                return False
            return True if own is None else own(path, module)

        return rule

    def is_tower(self, path: str) -> bool:
        return any(word in path for word in _tower_words())

    def new_cache(self, model: Any) -> list[Any]:
        with _light_package():
            module = importlib.import_module("mlx_vlm.models.cache")
        return list(module.make_prompt_cache(_text_model(model)))

    def forward(self, model: Any, tokens: Any, cache: list[Any] | None = None) -> Any:
        return _text_model(model)(tokens, cache=cache).logits

    def load(self, folder: Path, config: Mapping[str, Any]) -> Any:
        """Load a build as a text model, without running a file of its folder."""
        from .text_model import load_with_mlx_vlm

        return load_with_mlx_vlm(folder, config, self)


def _text_model(model: Any) -> Any:
    """The part that mlx-vlm generates text with."""
    return getattr(model, "language_model", model)


def is_installed() -> bool:
    """Whether mlx-vlm can be imported; it is not."""
    return importlib.util.find_spec("mlx_vlm") is not None


def is_listed(config: Mapping[str, Any]) -> bool:
    """Whether mlx-vlm is known to have the config's `model_type`, installed or not."""
    return str(config["model_type"]) in LISTED


def require(config: Mapping[str, Any]) -> None:
    """Raise LayoutError unless mlx-vlm is installed and has a class for the config."""
    model_type = shown(config["model_type"])
    if not is_installed():
        raise LayoutError(f"config.json: {model_type} was to be read with mlx-vlm, which is not installed; {INSTALL}")
    if _package_of(config) is None:
        raise LayoutError(
            f"config.json: mlx-vlm {MlxVlm().version()} has no model_type {model_type!r};"
            " a newer mlx-vlm may have it (pip install -U mlx-vlm)"
        )


def _model_config(arch: Any, config: Mapping[str, Any]) -> Any:
    """The config object of a model, and within it those of its parts, as mlx-vlm's loader makes them."""
    table = deepcopy(dict(config))
    settings = arch.ModelConfig.from_dict(table)
    for part in _PARTS:
        name = f"{part}_config"
        if hasattr(settings, name) and table.get(name) is not None:
            setattr(settings, name, getattr(arch, f"{part.title()}Config").from_dict(table[name]))
    return settings


def _imported(config: Mapping[str, Any]) -> Any:
    return import_package(str(_package_of(config)))


def import_package(name: str) -> Any:
    """Import a package of mlx_vlm.models. Raises LayoutError where what it needs itself is missing."""
    output = io.StringIO()
    try:
        with redirect_stdout(output), _light_package():
            return importlib.import_module(f"mlx_vlm.models.{name}")
    except SystemExit:
        why = shown(output.getvalue().strip()) or "it ends the process"
    except ImportError as error:
        why = shown(error)
    raise LayoutError(f"config.json: mlx-vlm's {name} cannot be imported ({why})")


def models_folder() -> Path:
    """Where the packages of mlx-vlm's models lie. Raises LayoutError where it is not installed."""
    return _folder() / "models"


def model_remapping() -> dict[str, str]:
    """Other names for models: what configs say -> the package."""
    return dict(_constants()["MODEL_REMAPPING"])


@contextmanager
def _light_package() -> Iterator[None]:
    """While inside, `mlx_vlm.models` can be imported without running mlx_vlm/__init__.py (see mlx_lm, likewise).

    Transformers, which some models import, is told to be quiet, as mlx_vlm/__init__.py tells it.
    """
    placed, before = "mlx_vlm" not in sys.modules, {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    if placed:
        package = types.ModuleType("mlx_vlm")
        package.__path__ = [str(_folder())]
        sys.modules["mlx_vlm"] = package
    try:
        yield
    finally:
        if placed:
            del sys.modules["mlx_vlm"]
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _folder() -> Path:
    spec = importlib.util.find_spec("mlx_vlm")
    if spec is None or not spec.submodule_search_locations:
        raise LayoutError(f"mlx-vlm is not installed; {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _package_of(config: Mapping[str, Any]) -> str | None:
    """The package of mlx_vlm.models for a config's `model_type`; None for what is no model, or a drafter."""
    if config.get("dflash_config") is not None:
        return None
    name = str(config["model_type"]).lower()
    name = str(_constants()["MODEL_REMAPPING"].get(name, name))
    sound = name.replace("_", "").isalnum() and len(name) <= LONGEST_NAME
    if not sound or not (_folder() / "models" / name / "__init__.py").is_file():
        return None
    return name


def _tower_words() -> tuple[str, ...]:
    """What the path of a module contains that mlx-vlm's converter never quantizes."""
    words: tuple[str, ...] = _constants()["multimodal_modules"]
    return words


@cache
def _constants() -> dict[str, Any]:
    """Tables of mlx_vlm.utils, read from where they stand in its source: importing it takes two seconds."""
    tables: dict[str, Any] = {"MODEL_REMAPPING": {}, "multimodal_modules": ()}
    for node in ast.walk(ast.parse((_folder() / "utils.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in tables:
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    return tables
