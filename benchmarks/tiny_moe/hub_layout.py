"""Write the trained model as a checkpoint in the Hub's layout: bf16, one shard, the names of a Qwen3.5-MoE."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import shape
import torch
import vocabulary
from torch import Tensor

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def config() -> dict[str, Any]:
    """Return config.json: the language model alone stands under `text_config`, as in the real one."""
    ids = vocabulary.ids()
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "eos_token_id": ids["<|im_end|>"],
        "model_type": "qwen3_5_moe",
        "text_config": shape.text_config(),
        "tie_word_embeddings": False,
        "transformers_version": "5.0.0",
    }


def stored(name: str, value: Tensor) -> tuple[str, Tensor]:
    """Return a parameter's name and value in the checkpoint; `A_log` stays in float32, as the real one's does.

    Zero-centred norms are stored as w, and mlx-lm adds 1 in bf16: w is rounded so that 1 + w is a bf16 number, too.
    """
    value = value.detach()
    if name.endswith(("layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")):
        value = (1.0 + value).bfloat16().float() - 1.0
    name = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
    return name, value.to(torch.float32 if name.endswith("A_log") else torch.bfloat16).contiguous()


def rounded(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters as the checkpoint holds them, in float32: what the published model computes with."""
    return {name: stored(name, value)[1].float() for name, value in parameters.items()}


def write(folder: Path, parameters: dict[str, Tensor], tokenizer: Path) -> None:
    """Write config, weights and the tokenizer's files (from the folder `tokenizer`) into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(stored(name, value) for name, value in sorted(parameters.items()))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(), indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / name)


def tokenizer(folder: Path) -> Any:
    """Read a folder's tokenizer."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def read(folder: Path) -> dict[str, Tensor]:
    """Read a checkpoint's parameters under transformers' names, in float32."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {name.replace("model.language_model.", "model.", 1): value.float() for name, value in tensors.items()}
