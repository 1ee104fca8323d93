"""16-bit computing on the CPU as a GPU does it: products added up in float32, results rounded to 16 bits.

mlx's CPU gathers experts in float32 only, and adds up the products of quantized matrices in the dtype of their input:
in bf16 that is twelve times the error of rounding once. A server on Apple's GPU adds up in float32. So three functions
of mlx take their input as float32 here, and their result is rounded to the input's dtype:

    gather_mm, gather_qmm, quantized_matmul

All else is mlx's own: a plain product of bf16 matrices is added up in float32 on the CPU, too. Nothing is changed for
float32, nor on a GPU. The functions are replaced in `mlx.core` only while a model's forward is followed.

Alone in its module because it alone changes `mlx.core`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

NAMES = ("gather_mm", "gather_qmm", "quantized_matmul")
_NARROW = (mx.bfloat16, mx.float16)
Product = Callable[..., mx.array]


@contextmanager
def added_up_in_float32(dtype: mx.Dtype) -> Iterator[None]:
    """Let products of a model that computes in `dtype` be added up in float32, where this device would not."""
    if dtype not in _NARROW or mx.default_device().type != mx.DeviceType.cpu:
        yield
        return
    own: dict[str, Product] = {name: getattr(mx, name) for name in NAMES}
    try:
        for name, product in own.items():
            setattr(mx, name, _widened(product))
        yield
    finally:
        for name, product in own.items():
            setattr(mx, name, product)


def _widened(product: Product) -> Product:
    def widened(x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        if x.dtype not in _NARROW:
            return product(x, *args, **kwargs)
        return product(x.astype(mx.float32), *args, **kwargs).astype(x.dtype)

    return widened
