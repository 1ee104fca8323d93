"""What a folder or repository is that holds no checkpoint: a model in another form, or no model; and the way on.

Told by the names of its files alone, and by the base that a LoRA adapter names. Nothing else is read, and nothing
converted: people who hand over a GGUF file or an adapter need the right source, or one step before this tool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from ..disk.files import read_regular
from ..errors import SourceError
from ..words.text import some
from .headers import load_json, shown
from .index import INDEX, SHARDS, is_shard

# Names that are looked at, of a folder and of the folders in it.
MOST_NAMES = 10_000
_ADAPTER = "adapter_config.json"
_ADAPTER_BYTES = 1 << 20
_ORIGINAL = "use the repository that it was made from, with model*.safetensors"

# Patterns of names, what they are, what to do; the first that fits wins. {} are the names.
_KINDS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("model_index.json",), "a diffusers pipeline ({})", "only language models can be converted"),
    (
        ("*.gguf", "*/*.gguf"),
        "GGUF files ({}), which llama.cpp reads and which are quantized already",
        "use the original repository, with model*.safetensors",
    ),
    (
        ("blobs/sha256-*", "manifests/*", "models/manifests/*", "models/blobs/*"),
        "models of Ollama ({}), which are GGUF and quantized already",
        "use the original repository on the Hub, with model*.safetensors",
    ),
    (
        ("*.safetensors.incomplete", "*.safetensors.part", "*.incomplete", "*/*.incomplete", "*.crdownload", "*.aria2"),
        "an unfinished download ({})",
        "finish it: run the same download again",
    ),
    (
        ("pytorch_model*.bin", "model*.bin", "*.pth", "*.pt", "*.ckpt", "original/*.pth"),
        "weights as PyTorch pickles ({}), which can run code when they are loaded",
        "use a repository with model*.safetensors, or, where you trust it, write them with transformers:"
        " AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(OUT), and copy the tokenizer's files there",
    ),
    (
        ("consolidated*.safetensors", "params.json", "tekken.json"),
        "weights in Mistral's own layout ({})",
        "use the repository in transformers' layout, with config.json and model*.safetensors",
    ),
    (
        ("weights*.npz", "*.npz", "weights*.safetensors"),
        "weights of an older MLX build, or of another tool ({})",
        _ORIGINAL,
    ),
    (
        ("*.onnx", "onnx/*.onnx", "*.h5", "*.msgpack", "*.tflite", "*.mlpackage/*", "*.mlmodelc/*", "*.engine"),
        "weights for another framework ({})",
        _ORIGINAL,
    ),
    (
        ("dataset_info*.json", "dataset_dict.json", "*.parquet", "*.arrow", "data/*.parquet"),
        "a data set ({})",
        "give a model's repository",
    ),
    (
        ("*.safetensors",),
        "*.safetensors of other names ({}), which mlx-lm does not load",
        "if they are the model's shards, rename them to model*.safetensors, with config.json beside",
    ),
    (("snapshots/*",), "a repository in the Hub's cache ({})", "give its id (org/name), or the folder in snapshots/"),
)
_TOKENIZER = ("tokenizer*.json", "tokenizer.model", "vocab.*", "*.tiktoken", "merges.txt")


def names_below(folder: Path) -> list[str]:
    """Names of what lies in a folder and in the folders in it, at most `MOST_NAMES`; links are not followed."""

    def entries() -> Iterator[str]:
        for path in sorted(folder.iterdir()):
            yield path.name
            if path.is_dir() and not path.is_symlink():
                yield from (f"{path.name}/{below.name}" for below in sorted(path.iterdir()))

    try:
        return list(islice(entries(), MOST_NAMES))
    except OSError:
        return []


def described(files: Iterable[str], read: Callable[[str], bytes] | None = None) -> str | None:
    """Say what names are those of, and what to do; None for what is not known.

    `read` gives the bytes of a file, for the base that an adapter names.
    """
    names = [name for name in files if not name.rpartition("/")[2].startswith(".")]
    if _ADAPTER in names:
        return _adapter(names, read)
    if any(map(is_shard, names)):
        return None
    for patterns, what, advice in _KINDS:
        if matching := _matching(names, patterns):
            return f"{what.format(some([shown(name, 60) for name in matching], 2))}; {advice}"
    if folder := _checkpoint_below(names):
        return f"the checkpoint lies in its folder {folder}/; give that, or its files in a folder of their own"
    tokenizer = _matching(names, _TOKENIZER)
    if tokenizer and "config.json" in names:
        return (
            f"config.json and {some(tokenizer, 2)}: the weights are missing; download {SHARDS} and {INDEX} beside them"
        )
    if tokenizer:
        return f"a tokenizer alone ({some(tokenizer, 2)}); give the folder that also has config.json and weights"
    return None


def described_folder(folder: Path) -> str | None:
    """Say what a folder holds that is no checkpoint, and what to do; None for what is not known."""
    if folder.is_dir() and not any(folder.iterdir()):
        return "nothing else either: it is empty; download the checkpoint into it"
    return described(names_below(folder), lambda name: read_regular(folder / name, _ADAPTER_BYTES))


def _matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [n for n in names if any(fnmatchcase(n.lower(), p) and n.count("/") == p.count("/") for p in patterns)]


def _adapter(names: Sequence[str], read: Callable[[str], bytes] | None) -> str:
    base = None
    if read is not None:
        try:
            base = load_json(read(_ADAPTER), _ADAPTER, duplicates=True).get("base_model_name_or_path")
        except (OSError, SourceError):
            base = None
    of = f" of {shown(base)}" if isinstance(base, str) and base else ""
    if any(fnmatchcase(n, "adapters*.safetensors") for n in names):
        way = "mlx_lm.fuse --model BASE --adapter-path ADAPTER --save-path OUT"
    else:
        way = "peft: PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload().save_pretrained(OUT)"
    return f"a LoRA adapter{of}, which holds no model; merge it into its base first ({way}) and give what that writes"


def _checkpoint_below(names: Sequence[str]) -> str | None:
    """The one folder below that holds config.json and shards, or shards alone."""
    shards = {name.partition("/")[0] for name in names if "/" in name and is_shard(name.rpartition("/")[2])}
    whole = sorted(folder for folder in shards if f"{folder}/config.json" in names)
    return shown((whole or sorted(shards))[0]) if shards else None
