"""Where a checkpoint's tensors are not the arrays that the model wants, and why.

The cause is looked for before a shard is said to be missing: a tensor that lies in the shards may have been dropped by
the class's own `sanitize` (mlx-lm's deepseek_v3 drops whatever begins with `model.layers.61`), a class may want arrays
that no checkpoint of its kind has (an indexer in every layer of GLM-5.2), a tie may be missing in the config. What a
class has no place for behind the model's last layer is its next-token head, and is dropped here too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import LayoutError
from ..source.checkpoint import Checkpoint
from ..words.layers import layers_short
from ..words.text import counted, listed, some
from .arrays import origin_of, tensors_of
from .carried import kind_of
from .mlx_lm import module_name
from .provider import MLX_LM, Provider
from .views.view import View

# More mismatches than this have one cause, and are reported as one.
EXAMPLES = 5

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BASE_LAYER = ".base_layer."
_FUSED = re.compile(r"experts\.gate_up_proj(\.weight)?$")
_NAMED = re.compile(r"\.mlp\.experts\.gate_up_proj\.weight$")
_NEXT_TOKEN = re.compile(r"\.(eh_proj|enorm|hnorm|shared_head)\.")
# What no model computes with: tables that are computed anew, scales of activations and caches.
_IDLE = re.compile(
    r"(inv_freq|position_ids|masked_bias|attn\.bias|(activation|input|output|[kv])_scale|scale_inv|weight_(scale|shape"
    r"|packed|g_idx|zero_point)\w*|(blocks|scales|qzeros|g_idx))$"
)


def layer_of(name: str) -> int | None:
    """The number of the layer that a name lies in."""
    match = _LAYER.search(name)
    return int(match[1]) if match else None


def without_next_token_head(
    parameters: Mapping[str, tuple[int, ...]], views: Mapping[str, View], config: Mapping[str, Any]
) -> dict[str, View]:
    """The views without those of a next-token head, which lie behind the model's last layer."""
    text = config.get("text_config")
    heads = (text if isinstance(text, dict) else config).get("num_nextn_predict_layers")
    n_layers = 1 + max((n for n in map(layer_of, parameters) if n is not None), default=-1)
    behind = {name for name in views if (layer_of(name) or -1) >= n_layers and name not in parameters}
    numbers = {layer_of(name) for name in behind}
    last = n_layers + (heads if isinstance(heads, int) and not isinstance(heads, bool) else 0)
    marked = {layer_of(name) for name in behind if _NEXT_TOKEN.search(name)}
    if n_layers == 0 or not behind or not all(n is not None and (n < last or n in marked) for n in numbers):
        return dict(views)
    return {name: view for name, view in views.items() if name not in behind}


def check_arrays(
    parameters: Mapping[str, tuple[int, ...]],
    views: Mapping[str, View],
    source: Checkpoint,
    provider: Provider,
    config: Mapping[str, Any],
) -> None:
    """Check that the views are what the class asks for.

    Raises LayoutError, which names a cause where there is one and else lists up to EXAMPLES mismatches one by one.
    """
    wrong = [
        f"{name}: {_giver(name, views[name])} shape {list(views[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in parameters.items()
        if name in views and views[name].shape != shape
    ]
    absent = [name for name in parameters if name not in views]
    explained = _explanations(absent, views, source, provider, config)
    named = next((n for n in source.weights if _NAMED.search(n)), None)
    if wrong and named and config.get("model_type") == "gpt_oss":
        explained.add((), f"{source.weights[named].file}: {_named_line(named, source)}")
    missing = [
        f"{name}: not in the checkpoint; a shard may be missing" for name in absent if name not in explained.names
    ]
    strange = [
        f"{(origin := origin_of(view))}: unexpected; {provider.name}'s {source.config['model_type']} has no"
        f" {'such array' if origin == name else name}"
        for name, view in views.items()
        if name not in parameters and name not in explained.names
    ]
    kinds = [kind for kind in (explained.lines, wrong, missing, strange) if kind]
    count = len(explained.names - views.keys()) + sum(map(len, (wrong, missing, strange)))
    among = len(parameters.keys() | views.keys())
    if explained.lines or 0 < count <= EXAMPLES:
        raise LayoutError(listed([problem for kind in kinds for problem in kind], EXAMPLES))
    if count:  # one cause: some of each kind show which
        each = -(-EXAMPLES // len(kinds))
        lead = f"config.json does not describe these shards: {count:,} of {among:,} arrays differ; the first:"
        raise LayoutError("\n".join([lead, *(problem for kind in kinds for problem in kind[:each])]))


def _named_line(name: str, source: Checkpoint) -> str:
    """Experts of gpt-oss by the class's own name, which is for the order that MXFP4 has."""
    return (
        f"holds {name} of shape {list(source.weights[name].shape)}, which mlx-lm's gpt_oss takes for (experts, out,"
        f" in); if it is transformers' (experts, in, out), name it as transformers does, {name.removesuffix('.weight')}"
    )


class _Explained:
    """Arrays whose absence has a cause, or that are there for it, and a line for each cause."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.lines: list[str] = []

    def add(self, names: Iterable[str], line: str) -> None:
        self.names |= set(names)
        self.lines.append(line)


def _explanations(
    absent: Sequence[str],
    views: Mapping[str, View],
    source: Checkpoint,
    provider: Provider,
    config: Mapping[str, Any],
) -> _Explained:
    explained = _Explained()
    if not absent:
        return explained
    unplaced = [name for name in views if name not in set(absent) and origin_of(views[name]) == name]
    if (renamed := _renamed(absent, unplaced)) is not None:
        names, line = renamed
        explained.add([*absent, *names], f"{source.weights[names[0]].file}: {line}")
        return explained
    used = {tensor for view in views.values() for tensor in tensors_of(view)}
    dropped = [name for name in source.weights if name not in used]
    who = _class_words(provider, config)
    indexers = [name for name in absent if ".indexer." in name]
    if indexers and not any(layer_of(d) in {layer_of(i) for i in indexers} and "indexer" in d for d in dropped):
        layers = layers_short(sorted({n for n in map(layer_of, indexers) if n is not None}))
        shares = "indexer_types lets layers share one" if _text(config).get("indexer_types") else "others share theirs"
        explained.add(
            indexers,
            f"config.json: {who} makes an indexer for every layer, but {shares}, and the checkpoint has none for"
            f" {counted(len(indexers), 'array')} of layers {layers}; no shard is missing: this version cannot run the"
            " model, use a newer mlx-lm, or another runtime",
        )
    rest = [name for name in absent if name not in explained.names]
    for names, origins in _by_origin(rest, dropped):
        first = next((name for name in names if name in origins), origins[0])
        explained.add(
            names,
            f"{source.weights[first].file}: holds {first}, but {who} drops {_share(origins, source)} when it loads, and"
            f" then lacks {some(names, 1)}; no shard is missing: this version cannot run the model, use a newer"
            f" {provider.name}, or another runtime",
        )
    head = [name for name in rest if name.endswith("lm_head.weight") and name not in explained.names]
    if head and _text(config).get("tie_word_embeddings") is True:
        explained.add(
            head,
            f"{head[0]}: not in the checkpoint, since config.json ties it to the embedding, but {who} always has a head"
            " of its own; save the model with tie_word_embeddings = false (transformers writes the head then)",
        )
    elif head:
        explained.add(
            head,
            f"{head[0]}: not in the checkpoint, and config.json does not tie it to the embedding; if the model has no"
            " head of its own, set tie_word_embeddings to true in config.json, else a shard is missing",
        )
    return explained


def _renamed(absent: Sequence[str], there: Sequence[str]) -> tuple[list[str], str] | None:
    """Tensors that are the absent arrays under other names, and what is to be done; None where that is not so."""
    wanted, present = set(absent), set(there)
    for name in there:
        if _BASE_LAYER in name and name.replace(_BASE_LAYER, ".") in wanted:
            bases = [n for n in there if _BASE_LAYER in n or ".lora_" in n]
            return [name, *bases], (
                f"holds {name}, the base of an adapter that was not merged; merge it (peft: merge_and_unload()) and"
                " save the model again"
            )
        fused = _FUSED.search(name)
        if fused and f"{name[: fused.start()]}switch_mlp.gate_proj.weight" in wanted:
            return [n for n in there if ".experts." in n], (
                f"holds {name}, all experts in one, which this class takes one by one ({name[: fused.start()]}experts.0"
                ".gate_proj.weight); no shard is missing: split them, as transformers' save_pretrained does"
            )
        first, _, rest = name.partition(".")
        names = [n for n in there if n.startswith(f"{first}.")] if rest in wanted else []
        if sum(n.removeprefix(f"{first}.") in wanted for n in names) > 1:  # one alone may be another head
            return names, (
                f"holds {name}, where {rest} is expected; no shard is missing: {counted(len(names), 'name')} begin"
                f" with {first}, which a wrapper of the model left there; take it off, or save the model itself"
            )
    for name in absent:
        first, _, rest = name.partition(".")
        names = [n for n in there if f"{first}.{n}" in wanted] if rest in present else []
        if len(names) > 1:
            return [rest, *there], (
                f"holds {rest}, where {name} is expected; no shard is missing: the names lack {first}, as those of a"
                " base model saved by itself; put it before them, or save the whole model"
            )
    return None


def _class_words(provider: Provider, config: Mapping[str, Any]) -> str:
    name = module_name(config) if provider is MLX_LM else str(config["model_type"])
    package = provider.name.replace("-", "_")
    return (
        f"{provider.name} {provider.version()}'s {name} ({package}/models/{name}{'.py' if provider is MLX_LM else ''})"
    )


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _by_origin(absent: Sequence[str], dropped: Sequence[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Arrays with the dropped tensors that they likely come from: of the same layer, or of the same name outside."""
    of_layer: dict[int | None, list[str]] = {}
    for name in dropped:
        if not _IDLE.search(name) and kind_of(name, 1 << 62) == "other":
            of_layer.setdefault(layer_of(name), []).append(name)
    groups: dict[int | None, tuple[list[str], set[str]]] = {}
    for name in absent:
        layer = layer_of(name)
        origins = [d for d in of_layer.get(layer, ()) if _alike(name, d)]
        if origins:
            names, all_origins = groups.setdefault(layer, ([], set()))
            names.append(name)
            all_origins.update(origins)
    for names, origins_set in groups.values():
        yield names, sorted(origins_set)


def _alike(array: str, tensor: str) -> bool:
    """Whether an array and a tensor of one layer are likely the same: by their last parts, numbers left out."""
    if layer_of(array) is None:
        return array.endswith(tensor) or tensor.endswith(array)
    a, b = ([p for p in name.split(".") if not p.isdigit()] for name in (array, tensor))
    if a[-2:] == b[-2:]:
        return True
    made_of = {"embed_q": "kv_b_proj", "unembed_out": "kv_b_proj"}
    return len(a) > 1 and made_of.get(a[-2], "") in b


def _share(origins: Sequence[str], source: Checkpoint) -> str:
    """What a class drops: a layer by its prefix, where that is all of it, or the tensors by number."""
    layer = layer_of(origins[0])
    if layer is not None:
        prefix = origins[0][: origins[0].index(f"layers.{layer}.")] + f"layers.{layer}"
        if len(origins) > 1:
            return f"{prefix} ({counted(len(origins), 'tensor')})"
    return counted(len(origins), "tensor")


def dropped_notes(
    dropped: Sequence[str], n_layers: int, source: Checkpoint, provider: Provider, config: Mapping[str, Any]
) -> list[str]:
    """Say which tensors the class drops that transformers computes with: a note for each kind, and for a tied head."""
    kinds: Counter[str] = Counter()
    for name in dropped:
        layer = layer_of(name)
        own = layer is not None and layer < n_layers and kind_of(name, n_layers) == "other"
        if own and name in source.weights and not _IDLE.search(name):
            kinds[_LAYER.sub(".layers.N.", name)] += 1
    who = _class_words(provider, config)
    heads = [
        f"{name}: dropped by {who}, since config.json ties it to the embedding; where the two differ, set"
        " tie_word_embeddings to false in config.json"
        for name in dropped
        if name.endswith("lm_head.weight") and _text(config).get("tie_word_embeddings") is True
    ]
    return heads + [
        f"{name}: {counted(count, 'tensor')} dropped by {who}; if the model computes with them, the build does not"
        for name, count in kinds.items()
    ]


def _giver(name: str, view: View) -> str:
    """Which stored tensor gives an array, where it is called otherwise."""
    origin = origin_of(view)
    return "the shards give" if origin == name else f"{origin} gives"
