"""MLX builds as sources: a matrix that mlx quantized, read as the floats that mlx makes of it.

    X.weight U32 (…, out, words), X.scales (…, out, groups), X.biases beside them in the mode affine

The values are those of `mx.dequantize` on the CPU (mlx 0.32), to the bit: in the mode affine in the dtype of the
scales, ``scale · integer`` and then ``+ bias``, each rounded to it; otherwise in the model's. So a build that is made
of them is what mlx_lm.convert makes of the build after `--dequantize`. The error that the build has against the model
that it was made of stays; what is measured from here on is the error that is added.

Formats are those of the config's `quantization` block: an entry of the module, else the top level. Where neither fits
the shapes, the one format that does; no class is known here that says how wide a matrix is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...words.formats import BY_NAME, MODE_DEFAULTS, MODES, Format, carrier, nbytes, shape_formats, widen
from ...words.text import listed
from ..headers import Read, Tensor, shown
from .declared import Declared
from .decoded import AT_ONCE, Decoded
from .numbers import put, rounded, table_of

# What nvfp4's global scale is divided by: the largest of E4M3 times the largest of E2M1
_LARGEST = 448 * 6


@dataclass(frozen=True, slots=True)
class MlxPacked(Decoded):
    """Floats stored as mlx stores them: `codes` in words along the last axis, `scales` and `biases` for groups.

    `global_scale` is nvfp4's further scale, one for the tensor or one for each matrix of it.
    """

    codes: Tensor
    scales: Tensor
    biases: Tensor | None
    form: Format
    global_scale: Tensor | None = None

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """The tensors in the files that its values are made of, the codes first."""
        return tuple(t for t in (self.codes, self.scales, self.biases, self.global_scale) if t is not None)

    def _together(self, row: int, most: int) -> int:
        """How many whole rows from `row` on fit the cache; of one matrix where each has a global scale."""
        rows = min(most, AT_ONCE // self.shape[-1])
        if self.global_scale is not None:
            rows = min(rows, self.shape[-2] - row % self.shape[-2])
        return max(1, rows)

    def _decode(self, read: Read, row: int, column: int, out: NDArray[Any]) -> None:
        """Fill `out` (rows, columns) with the values from (`row`, `column`) on."""
        rows = len(out)
        scales = _rows(read, self.scales, row, rows)
        words = _rows(read, self.codes, row, rows)
        values = _numbers(words, self.form.bits, self.form.mode).reshape(*scales.shape, -1)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if self.biases is not None:
                values *= widen(scales, self.dtype)[..., None]
                values = rounded(values, self.dtype)  # as mlx does, which computes in the dtype of the scales
                values += widen(_rows(read, self.biases, row, rows), self.dtype)[..., None]
            else:
                steps = table_of("e4m3" if self.form.mode == "nvfp4" else "e8m0")[scales, 0]
                values *= (steps if self.global_scale is None else steps * self._global(read, row))[..., None]
        put(values.reshape(rows, -1)[:, column : column + out.shape[1]], self.dtype, out)

    def _global(self, read: Read, row: int) -> NDArray[np.float32]:
        """The global scale of a row's matrix."""
        assert self.global_scale is not None
        count = self.global_scale.nbytes // 4
        value = np.empty(1, np.float32)
        at = row // self.shape[-2] if count > 1 else 0
        read(self.global_scale.file, self.global_scale.start + 4 * at, value.data.cast("B"))
        return value / np.float32(_LARGEST)


def _rows(read: Read, tensor: Tensor, row: int, rows: int) -> NDArray[Any]:
    """Rows of a stored tensor, (rows, columns) of the carrier of its dtype."""
    values = np.empty((rows, tensor.shape[-1]), carrier(tensor.dtype))
    read(tensor.file, tensor.start + row * tensor.shape[-1] * values.itemsize, values.data.cast("B"))
    return values


def _numbers(words: NDArray[np.uint32], bits: int, mode: str) -> NDArray[np.float32]:
    """The numbers behind rows of words, (rows, values): integers in the mode affine, else floats of 4 or 8 bits.

    A row is one string of bits, the lowest first.
    """
    raw = words.view(np.uint8)
    if mode != "affine":
        return table_of("e2m1" if bits == 4 else "e4m3")[raw].reshape(len(raw), -1)
    if 8 % bits == 0:
        fields = (raw[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8((1 << bits) - 1)
        return fields.reshape(len(raw), -1).astype(np.float32)
    places = np.arange(raw.shape[1] * 8 // bits) * bits
    first, shift = places // 8, (places % 8).astype(np.uint16)
    after = raw[:, np.minimum(first + 1, raw.shape[1] - 1)].astype(np.uint16)
    fields = (raw[:, first] | after << np.uint16(8)) >> shift & np.uint16((1 << bits) - 1)
    return fields.astype(np.float32)


def refusal(settings: Mapping[str, Any]) -> str | None:
    """What of the settings cannot be read, None where all can."""
    entries = [value for value in settings.values() if isinstance(value, dict)]
    for value in ({k: settings[k] for k in ("bits", "group_size", "mode") if k in settings}, *entries):
        mode, fmt = value.get("mode", "affine"), _format(value)
        if fmt is None:
            return f"MLX ({shown(mode)})" if mode not in MODES else f"MLX ({shown(value)})"
    return None


def decoded(settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None) -> dict[str, Decoded]:
    """The float tensors that packed ones stand for, by name. Raises SourceError listing what cannot be read."""
    problems, floats = list[str](), dict[str, Decoded]()
    for name, tensor in tensors.items():
        path = name.removesuffix(".weight")
        if tensor.dtype != "U32" or path == name:
            continue
        scales = tensors.get(f"{path}.scales")
        if scales is None:
            problems.append(f"{tensor.file}: tensor {name} is packed and {path}.scales is missing; is a shard missing?")
            continue
        result = _decoded(path, settings, tensors, dtype)
        if isinstance(result, str):
            problems.append(f"{tensor.file}: {result}")
        else:
            floats[name] = result
    problems += [
        f"{tensor.file}: {name} scales a weight that is missing or not packed; is a shard missing?"
        for name, tensor in tensors.items()
        if name.endswith(".scales") and _dtype_of(tensors.get(f"{name.removesuffix('.scales')}.weight")) != "U32"
    ]
    if problems:
        raise SourceError(listed(problems))
    return floats


def _dtype_of(tensor: Tensor | None) -> str | None:
    return None if tensor is None else tensor.dtype


def _decoded(
    path: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str | None
) -> MlxPacked | str:
    """The floats of one matrix, or why they cannot be told."""
    codes, scales, biases = (tensors.get(f"{path}.{part}") for part in ("weight", "scales", "biases"))
    assert codes is not None and scales is not None
    seen = f"{path}: U32 {list(codes.shape)} with {scales.dtype} scales {list(scales.shape)}"
    options = _options(codes, scales)
    if not options:
        return f"{seen}: no format of mlx has these; `mlxquant audit` says what the build holds"
    claims = [f for f in (_format(settings.get(path)), _format(settings)) if f is not None]
    fmt = next((f for f in claims if f in options), None)
    usual = [f for f in options if f.bits not in BY_NAME.get(f.mode, ())] or options
    if fmt is None and len(usual) == 1:
        fmt = usual[0]
    if fmt is None:
        said = claims[0] if claims else "nothing"
        return f"{seen}: may be {' or '.join(map(str, usual))}, and config.json says {said}"
    if fmt.mode == "affine" and (biases is None or (biases.shape, biases.dtype) != (scales.shape, scales.dtype)):
        return f"{seen}: biases like the scales expected, {'none' if biases is None else list(biases.shape)} found"
    values = scales.dtype if fmt.mode == "affine" else dtype or "BF16"
    shape = (*codes.shape[:-1], codes.shape[-1] * 32 // fmt.bits)
    place = (codes.file, codes.start, nbytes(values, shape))
    whole = tensors.get(f"{path}.global_scale")
    if whole is not None and (whole.dtype != "F32" or whole.nbytes not in (4, 4 * codes.shape[0])):
        return f"{seen}: a global scale F32 for it or each of its matrices expected, {list(whole.shape)} found"
    parts = (codes, scales, biases if fmt.mode == "affine" else None)
    return MlxPacked(codes.name, values, shape, *place, *parts, fmt, whole)


def _options(codes: Tensor, scales: Tensor) -> list[Format]:
    """The formats that the shapes allow."""
    if codes.shape[:-1] != scales.shape[:-1] or not scales.shape[-1]:
        return []
    return shape_formats(codes.shape[-1], scales.shape[-1], scales.dtype)


def _format(value: Any) -> Format | None:
    """A block's or entry's format; what it leaves out is the mode's default. None where mlx has no such format."""
    if not isinstance(value, Mapping):
        return None
    mode = value.get("mode", "affine")
    if not isinstance(mode, str) or mode not in MODE_DEFAULTS:
        return None
    group, bits = MODE_DEFAULTS[mode]
    bits, group = value.get("bits", bits), value.get("group_size", group)
    if type(bits) is not int or type(group) is not int:
        return None
    fmt = Format(bits, group, mode)
    return None if fmt.problem() else fmt


def declared(
    settings: Mapping[str, Any], names: tuple[str, ...], shape: tuple[int, ...], dtype: str
) -> Declared | None:
    """How the block says that a module is stored: by its entry, else by the top level; None where it is not packed."""
    entry = next((settings[name] for name in names if name in settings), settings)
    fmt = _format(entry)
    if fmt is None or shape[-1] % fmt.group_size:
        return None
    return Declared("U32", sum(nbytes(kind, size) for kind, size in fmt.tensors(shape, dtype).values()), fmt)


def note(settings: Mapping[str, Any], floats: Mapping[str, Decoded]) -> str:
    """What a reader of plan and audit should know of such a source."""
    counts = Counter(str(t.form) for t in floats.values() if isinstance(t, MlxPacked))
    held = ", ".join(f"{n:,} modules in {fmt}" for fmt, n in counts.most_common()) or f"{_format(settings)}"
    return (
        f"the source is an MLX build, quantized itself ({held}): its error against the model that it was made of stays,"
        " and the errors here are those that are added to it"
    )
