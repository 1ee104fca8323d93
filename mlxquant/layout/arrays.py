"""The arrays of an MLX model: their shapes, the source bytes that each is made of, their dtypes.

mlx-lm's own `sanitize` is run over recording views, so every layout that mlx-lm knows is known here, without a
table of our own; forms of experts that a class does not know are turned before it (see `expert_stacks`). Whether the
arrays are those that the model wants is for `mismatches`; modules and roles come later (see `layout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..errors import MODEL_ERRORS, LayoutError, SourceError
from ..source.checkpoint import Checkpoint
from ..source.headers import Tensor
from ..source.packed import MLX, AsStored, as_stored, quantization_of
from ..words.formats import FLOATS, TORCH_DTYPES, Format
from ..words.text import listed
from .declared import declared_formats, repacked_mode
from .expert_stacks import turned
from .provider import Provider
from .views.bytes import MLX_DTYPES, SAFETENSORS_DTYPES
from .views.record import recording
from .views.strided import Strided
from .views.view import Computed, Joined, View, constant, source_view


def sanitized(model: Any, source: Checkpoint, provider: Provider, config: Mapping[str, Any]) -> dict[str, View]:
    """Run the provider's `sanitize` for a prepared config over views of the source's tensors.

    Packed tensors whose bits mlx can use as they are stay so where the class takes them (Kimi K2's int4); elsewhere,
    and all other packed tensors, are floats to it. So are those that it would take apart and quantize again
    (deepseek_v3's kv_b_proj). Raises LayoutError where it cannot take them.
    """
    exact = _exact(source)
    while exact and hasattr(model, "sanitize"):
        try:
            views = _sanitized(model, source, provider, config, _with_parts(source, exact))
        except LayoutError:
            break
        if not _taken(views, source):
            break
        if not (again := _quantized_again(views, source) & exact):
            return views
        exact -= again
    return _sanitized(model, source, provider, config, source.weights)


def _exact(source: Checkpoint) -> set[str]:
    """Names of packed tensors whose bits mlx could use as they are.

    Of 4 bits alone: what classes of mlx-lm repack, they take for 4 bits with biases of -8 scales.
    """
    if quantization_of(source.config).get("quant_method") == MLX:  # its modules are to be quantized anew
        return set()
    forms = ((name, as_stored(tensor)) for name, tensor in source.decoded.items())
    return {name for name, form in forms if isinstance(form, AsStored) and form.format.bits == 4}


def _with_parts(source: Checkpoint, packed: set[str]) -> dict[str, Tensor]:
    """The tensors as they are to be read, some of the `packed` ones in their stored parts."""
    others = {n: t for n, t in source.weights.items() if n not in packed}
    return others | {t.name: source.tensors[t.name] for n in packed for t in source.decoded[n].stored}


def _quantized_again(views: Mapping[str, View], source: Checkpoint) -> set[str]:
    """Names of the packed tensors of which a class computes integers: it dequantizes them and quantizes anew."""
    owners = {t.name: name for name, tensor in source.decoded.items() for t in tensor.stored}
    computed = [v for v in views.values() if isinstance(v.expr, Computed) and not mx.issubdtype(v.dtype, mx.floating)]
    return {owners[t] for v in computed for t in tensors_of(v) if t in owners}


def _taken(views: Mapping[str, View], source: Checkpoint) -> bool:
    """Whether a class made modules with scales of all packed tensors that it did not drop."""
    stored = {t.name for tensor in source.decoded.values() for t in tensor.stored} - source.decoded.keys()
    packed = (n for n, v in views.items() if not mx.issubdtype(v.dtype, mx.floating) and n.endswith(".weight"))
    scaled = all(f"{n.removesuffix('.weight')}.scales" in views for n in packed)
    return scaled and not stored & views.keys() and any(n.endswith(".scales") for n in views)


def _sanitized(
    model: Any, source: Checkpoint, provider: Provider, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, View]:
    unread = sorted({t.dtype for t in tensors.values()} - set(MLX_DTYPES))
    if unread:
        raise SourceError(
            f"{source.name}: tensors of dtype {', '.join(unread)}, which mlx cannot load;"
            " use a repository in bf16, f16 or f32, or write one with transformers:"
            " AutoModelForCausalLM.from_pretrained(SOURCE, dtype='bfloat16').save_pretrained(OUT)"
        )
    weights = turned(config.get("model_type"), {n: source_view(t) for n, t in tensors.items()})
    if not weights:
        return weights
    try:
        with recording():
            arrays = provider.sanitize(model, config, dict(weights))
        return {n: constant(a) if isinstance(a, mx.array) else a for n, a in arrays.items()}
    except MODEL_ERRORS as error:
        lacking = error.args[0] if isinstance(error, KeyError) and error.args else None
        if isinstance(lacking, str) and "." in lacking and lacking not in tensors:
            raise LayoutError(
                f"{source.name}: config.json asks for tensors that the checkpoint lacks, the first: {lacking};"
                " a shard may be missing, or config.json is of another model"
            ) from error
        raise LayoutError(
            f"{source.name}: {provider.name}'s sanitize for {source.config['model_type']} cannot take its tensors"
            f" ({type(error).__name__}: {error}); are some missing, or is it another layout?"
        ) from error


def stored_formats(
    model: Any, views: Mapping[str, View], config: Mapping[str, Any], has_tensors: bool
) -> dict[str, Format]:
    """Modules that the source already stores quantized (gpt-oss: MXFP4 experts), by path."""
    if not has_tensors:
        return _claimed_formats(model, config)
    formats: dict[str, Format] = {}
    for path, module in quantizable(model):
        scales, weight = views.get(f"{path}.scales"), views.get(f"{path}.weight")
        if scales is not None and weight is not None:
            formats[path] = _stored_format(path, module, weight, scales)
    return formats


def _claimed_formats(model: Any, config: Mapping[str, Any]) -> dict[str, Format]:
    """Formats by a config alone: in mxfp4 checkpoints the experts are packed, but for those that it excepts.

    Of compressed-tensors, what mlx-lm's class repacks.
    """
    settings = quantization_of(config)
    if settings.get("quant_method") != "mxfp4":
        mode = repacked_mode(model)
        claimed = declared_formats(model, config) if mode else {}
        return {p: d.format for p, d in claimed.items() if d.format and (d.format.bits, d.format.mode) == (4, mode)}
    excepted = [str(p).replace("*", "") for p in settings.get("modules_to_not_convert") or ()]
    experts = [p for p, module in quantizable(model) if hasattr(module, "num_experts")]
    return {p: Format(4, 32, "mxfp4") for p in experts if not any(k in p for k in excepted)}


def _stored_format(path: str, module: Any, weight: View, scales: View) -> Format:
    width = int(module.weight.shape[-1])
    if not scales.ndim or not scales.shape[-1] or not weight.ndim:
        raise LayoutError(f"{path}: stored with scales of shape {list(scales.shape)}, which no mode of mlx has")
    group, bits = width // scales.shape[-1], weight.shape[-1] * 32 // width
    modes = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
    stored = Format(bits, group, modes.get((bits, group), "none") if scales.dtype == mx.uint8 else "affine")
    if stored.problem():
        raise LayoutError(f"{path}: stored with {bits} bits and group size {group}, which no mode of mlx has")
    return stored


def quantizable(model: Any) -> list[tuple[str, Any]]:
    """Modules of a model that mlx can quantize, with their paths."""
    return [(p, m) for p, m in model.named_modules() if hasattr(m, "to_quantized")]


def parameters_of(model: Any, prequantized: Mapping[str, Format] = MappingProxyType({})) -> dict[str, tuple[int, ...]]:
    """Array name -> shape, in mlx-lm's order; prequantized modules with their stored arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, array in _flat(model.parameters()):
        path, _, suffix = name.rpartition(".")
        if suffix == "weight" and path in prequantized:
            stored = prequantized[path].tensors(tuple(array.shape), "BF16")
            shapes |= {f"{path}.{k}": shape for k, (_, shape) in stored.items()}
        else:
            shapes[name] = tuple(array.shape)
    return shapes


def module_at(model: Any, path: str) -> Any:
    """The module, or list of modules, at a dotted path."""
    for part in path.split(".") if path else ():
        model = model[int(part)] if isinstance(model, list) else model[part]
    return model


def _flat(parameters: Any) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(parameters)
    return list(flat)


def check_decoded(
    model: Any, views: Mapping[str, View], prequantized: Mapping[str, Format], source: Checkpoint
) -> None:
    """Check that no packed or FP8 byte is taken for a weight. Raises LayoutError listing the tensors."""
    integers = {f"{path}.weight" for path, _ in quantizable(model) if path not in prequantized}
    raw = {
        tensor.name: tensor
        for name, view in views.items()
        if name.rpartition(".")[0] not in prequantized
        for tensor in stored_tensors(view, decoded=False)
        if tensor.dtype in ("F8_E4M3", "F8_E5M2")
    }
    scales = {name: source.tensors.get(name + "_scale_inv") for name in raw}
    problems = [
        f"{tensor.file}: tensor {name} is FP8 {list(tensor.shape)} and its scale"
        + (f" {list(scale.shape)}" if (scale := scales[name]) else " is missing")
        + f": neither mlx-lm's {source.config['model_type']} nor a block size tells its values; use the bf16 repository"
        for name, tensor in raw.items()
    ]
    problems += [
        f"{origin_of(view)}: floats expected, {SAFETENSORS_DTYPES[view.dtype]} found: it is quantized, and config.json"
        " does not say how; use the bf16 repository"
        for name, view in views.items()
        if name in integers and not mx.issubdtype(view.dtype, mx.floating) and origin_of(view) not in raw
    ]
    if problems:
        raise LayoutError(listed(problems))


def origin_of(view: View) -> str:
    """The first stored tensor that a view draws on."""
    return next(iter(tensors_of(view)), "a computed array")


def tensors_of(view: View) -> Iterator[str]:
    """Names of the stored tensors that a view draws on."""
    for tensor in stored_tensors(view):
        yield from (t.name for t in tensor.stored)


def stored_tensors(view: View, *, decoded: bool = True) -> Iterator[Tensor]:
    """The tensors that a view draws on; without those that mlx-lm's own code decodes from FP8 unless `decoded`."""
    match view.expr:
        case Strided() as s:
            yield s.tensor
        case Joined(_, parts):
            for p in parts:
                yield from stored_tensors(p, decoded=decoded)
        case Computed() as c if decoded or c.function is not mx.from_fp8:
            for a in [*c.args, *c.kwargs.values()]:
                for v in a if isinstance(a, (list, tuple)) else [a]:
                    if isinstance(v, View):
                        yield from stored_tensors(v, decoded=decoded)


def source_dtype(view: View) -> str:
    """The dtype in which a view's values are stored, in safetensors' words."""
    match view.expr:
        case Strided() as s:
            return s.tensor.storage
        case Joined(_, parts):
            return source_dtype(parts[0])
        case Computed() as c:
            views = [a for a in c.args if isinstance(a, View)]
            return source_dtype(views[0]) if views else SAFETENSORS_DTYPES[view.dtype]


def array_dtypes(
    model: Any,
    parameters: Mapping[str, tuple[int, ...]],
    views: Mapping[str, View],
    config: Mapping[str, Any],
    override: str | None,
    notes: list[str],
) -> tuple[dict[str, tuple[str, str]], str | None]:
    """Array name -> (dtype in the source, dtype in the build), and what floats are cast to.

    As mlx_lm.convert: `--dtype`, else `torch_dtype`, else `text_config.dtype`, except where the class's
    cast_predicate says no.
    """
    text = config.get("text_config") or {}
    named = override or config.get("torch_dtype") or text.get("dtype")
    target = TORCH_DTYPES.get(str(named))
    casts = getattr(model, "cast_predicate", None) or (lambda _: True)
    if views:
        pairs = {}
        for name in parameters:
            dtype = SAFETENSORS_DTYPES[views[name].dtype]
            cast = target is not None and dtype in FLOATS and casts(name)
            pairs[name] = (source_dtype(views[name]), str(target) if cast else dtype)
        return pairs, target
    dtypes = (config.get("torch_dtype"), text.get("dtype"), config.get("dtype"), text.get("torch_dtype"))
    stored = TORCH_DTYPES.get(str(next(filter(None, dtypes), None)))
    if stored is None:
        stored = "BF16"
        notes.append("config.json names no dtype; bfloat16 is assumed")
    pairs = {}
    for name in parameters:
        source = stored if casts(name) else "F32"
        pairs[name] = (source, target if target is not None and casts(name) else source)
    return pairs, target
