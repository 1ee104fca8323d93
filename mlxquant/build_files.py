"""The files of a build beside its weights: config.json, tokenizer, chat template, generation settings.

config.json is the source's with mlx-lm's `quantization` block: the default at the top level, and one entry for
every module that differs from it, always with its mode, `false` for what stays unquantized. mlx-lm infers
unlisted modules from shapes; the version in LM Studio takes the top level for them, so all are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoint import INDEX
from .formats import Format
from .plan import Plan

# What mlx-lm's tokenizer loader may ask for, by suffix; weights and this project's own records excepted.
_KEPT_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".jsonl")
_NOT_KEPT = {
    "config.json", INDEX, "hf_quant_config.json", "mlxquant.json", "audit.json", "adapter_config.json",
    "quantize_config.json", "params.json",
}  # fmt: skip
_VISION_FILES = {"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}


def config_text(config: Mapping[str, Any], plan: Plan) -> bytes:
    """config.json of the build, keys sorted as mlx-lm writes it."""
    kept = {k: v for k, v in config.items() if k not in ("_name_or_path", "vision_config", "quantization_config")}
    if isinstance(text := kept.get("text_config"), dict):
        kept["text_config"] = {k: v for k, v in text.items() if k != "quantization_config"}
    block = quantization_block(plan)
    if block:
        kept["quantization"] = kept["quantization_config"] = block
    return json.dumps(dict(sorted(kept.items())), indent=4).encode()


def quantization_block(plan: Plan) -> dict[str, Any]:
    """mlx-lm's `quantization` block for a plan; empty where nothing is quantized."""
    formats = {m.module.path: m.format for m in plan.modules if m.module.quantizable}
    used = Counter(f for f in formats.values() if f is not None)
    if not used:
        return {}
    default = plan.recipe.default
    top: Format = default if default in used and default is not None else used.most_common(1)[0][0]
    others = {path: f.as_dict() if f else False for path, f in formats.items() if f != top}
    return {**top.as_dict(), **others}


def side_files(folder: Path, *, trust_remote_code: bool) -> list[Path]:
    """The source's other files that belong into the build, sorted by name."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith(".") or path.name in _NOT_KEPT | _VISION_FILES:
            continue
        if path.name.endswith(".index.json"):
            continue
        if path.suffix in _KEPT_SUFFIXES or (path.suffix == ".py" and trust_remote_code):
            found.append(path)
    return found
