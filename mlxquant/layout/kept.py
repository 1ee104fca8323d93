"""Modules whose bits in the source mlx can use as they are, and the bytes that a source stores of each.

A packed tensor is read as floats (see `source.packed`). Where its bits are those of one of mlx's formats already, a
recipe's `use = "source"` keeps them: the same movements that `sanitize` made of the floats (stacks, slices of rows,
renames) are made of the packed rows. What cuts or computes within a row cannot be followed, and is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from ..source.checkpoint import Checkpoint
from ..source.headers import Tensor
from ..source.packed import AsStored, Declared, Decoded, as_stored
from ..words.formats import Format
from ..words.modules import Array, Module
from .arrays import stored_tensors
from .declared import declared_formats
from .views.bytes import MLX_DTYPES, SAFETENSORS_DTYPES
from .views.strided import Strided
from .views.view import Joined, View, join


def view_name(path: str, part: str) -> str:
    """What the view of a packed part is called beside the view of the module's floats."""
    return f"{path}.{part}, as in the source"


def with_kept(
    modules: Iterable[Module], views: Mapping[str, View], source: Checkpoint
) -> tuple[tuple[Module, ...], dict[str, View]]:
    """The modules with the format that their bits in the source have, or why none; and the views of their parts."""
    placed, packed = list[Module](), dict[str, View]()
    for module in modules:
        view = views.get(f"{module.path}.weight")
        if view is None or module.prequantized or not module.quantizable:
            placed.append(module)
            continue
        form = kept_form(view, module.weight.dtype)
        if isinstance(form, tuple):
            kept, parts = form
            packed |= {view_name(module.path, part): of for part, of in parts.items()}
            placed.append(replace(module, kept=kept))
        else:
            placed.append(replace(module, not_kept=form) if form else module)
    return tuple(placed), packed


def kept_form(view: View, dtype: str) -> tuple[Format, dict[str, View]] | str:
    """The format and views of the packed parts of a matrix; or why there are none, "" where nothing is packed.

    `dtype` is what the build casts floats to: scales in another one would change.
    """
    leaves = list(stored_tensors(view))
    if not any(isinstance(t, Decoded) for t in leaves):
        return ""
    forms = dict[str, AsStored]()
    for tensor in leaves:
        form = as_stored(tensor) if isinstance(tensor, Decoded) else "a part of it is not packed"
        if isinstance(form, str):
            return form
        forms[tensor.name] = form
    formats = {form.format for form in forms.values()}
    if len(formats) > 1:
        return f"its parts are stored in different formats: {', '.join(sorted(map(str, formats)))}"
    parts = dict[str, View]()
    for part in next(iter(forms.values())).tensors:
        packed = _packed(view, {name: form.tensors[part] for name, form in forms.items()})
        if packed is None:
            return "mlx-lm's class computes it, or cuts its rows"
        parts[part] = packed
    fmt = formats.pop()
    scales = SAFETENSORS_DTYPES[parts["scales"].dtype]
    if fmt.mode == "affine" and scales != dtype:
        return f"its scales are {scales}, and the build casts floats to {dtype}"
    return fmt, parts


def _packed(view: View, tensors: Mapping[str, Tensor]) -> View | None:
    """A view with each float tensor in it replaced by a packed one of the same rows; None where rows are not whole."""
    match view.expr:
        case Strided() as s:
            return _window(s, tensors[s.tensor.name])
        case Joined(axis, parts) if axis < view.ndim - 1:
            packed = [_packed(part, tensors) for part in parts]
            return None if any(p is None for p in packed) else join([p for p in packed if p is not None], axis)
    return None


def _window(s: Strided, tensor: Tensor) -> View | None:
    """The rows of `tensor` that a window on the floats shows; None where it does not show whole rows."""
    row = s.tensor.shape[-1] * s.itemsize
    whole = s.shape and s.shape[-1] == s.tensor.shape[-1] and s.strides[-1] == s.itemsize
    if not whole or s.offset % row or any(stride % row for n, stride in _lead(s) if n != 1):
        return None
    dtype = MLX_DTYPES[tensor.dtype]
    size = int(dtype.size)
    width = tensor.shape[-1] * size
    shape = (*s.shape[:-1], tensor.shape[-1])
    strides = (*(stride // row * width if n != 1 else size for n, stride in _lead(s)), size)
    return View(Strided(tensor, size, s.offset // row * width, shape, strides), shape, dtype)


def _lead(s: Strided) -> list[tuple[int, int]]:
    return list(zip(s.shape[:-1], s.strides[:-1], strict=True))


# --- bytes of the source ---


def with_stored_bytes(modules: Iterable[Module], views: Mapping[str, View], source: Checkpoint) -> tuple[Module, ...]:
    """The modules of a packed source with the bytes that its shards hold of each array: codes, scales, zero points."""
    owners = {t.name: decoded for decoded in source.decoded.values() for t in decoded.stored}
    if not owners:
        return tuple(modules)
    return tuple(replace(m, arrays=tuple(_counted(m, a, views, owners) for a in m.arrays)) for m in modules)


def with_declared_bytes(modules: Iterable[Module], model: Any, config: Mapping[str, Any]) -> tuple[Module, ...]:
    """The modules of a packed checkpoint of which there is the config alone, with the bytes that it tells."""
    stated = declared_formats(model, config)
    if not stated:
        return tuple(modules)
    return tuple(_declared(m, stated[m.path]) if m.path in stated else m for m in modules)


def _declared(module: Module, storage: Declared) -> Module:
    arrays = (
        replace(a, source_dtype=storage.storage, stored_nbytes=storage.nbytes) if a.name == "weight" else a
        for a in module.arrays
    )
    kept = None if module.prequantized else storage.format
    reason = "" if module.prequantized or kept else "no format of mlx has it"
    return replace(module, arrays=tuple(arrays), kept=kept, not_kept=reason)


def _counted(module: Module, array: Array, views: Mapping[str, View], owners: Mapping[str, Decoded]) -> Array:
    name = f"{module.path}.{array.name}" if array.name else module.path
    names = [f"{module.path}.{part}" for part in ("weight", "scales", "biases")] if array.name == "weight" else [name]
    return replace(array, stored_nbytes=_stored_bytes([views[n] for n in names if n in views], owners))


def _stored_bytes(views: Iterable[View], owners: Mapping[str, Decoded]) -> int:
    """Bytes of the stored tensors that views draw on: each once, and of a part its share."""
    shares = dict[str, tuple[Tensor, int, int]]()
    for view in views:
        elements = Counter[str]()
        for window in windows(view):
            elements[window.tensor.name] += prod(window.shape)
            shares.setdefault(window.tensor.name, (window.tensor, 0, 1))
        for name, count in elements.items():
            tensor, most, _ = shares[name]
            total = max(1, prod(tensor.shape))
            shares[name] = tensor, min(total, max(most, count)), total
    whole = dict[str, tuple[Tensor, int, int]]()
    for name, (tensor, count, total) in shares.items():
        owner = tensor if isinstance(tensor, Decoded) else owners.get(name, tensor)
        _, before, of = whole.get(owner.name, (owner, 0, 1))
        whole[owner.name] = (owner, count, total) if count * of >= before * total else (owner, before, of)
    return sum(sum(t.nbytes for t in owner.stored) * count // total for owner, count, total in whole.values())


def windows(view: View) -> Iterable[Strided]:
    """The windows on stored tensors that a view is made of."""
    match view.expr:
        case Strided() as s:
            yield s
        case Joined(_, parts):
            for part in parts:
                yield from windows(part)
        case computed:
            for argument in [*computed.args, *computed.kwargs.values()]:
                for each in argument if isinstance(argument, (list, tuple)) else [argument]:
                    if isinstance(each, View):
                        yield from windows(each)
