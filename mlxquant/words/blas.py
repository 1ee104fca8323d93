"""How many threads the BLAS of numpy and scipy computes a product with, where that is OpenBLAS.

OpenBLAS cuts even a small product over all cores and waits for the slowest, actively, and threads that call it side by
side take turns: on many cores, or on a machine that is busy, that costs many times the product. So whoever has threads
of its own lets each compute its products alone. numpy and scipy each come with a library of their own. Another BLAS
(Accelerate, MKL) keeps the threads that it has. Alone in its module because encoders and the streamed pass both
need it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_Threads = tuple[Callable[[], int], Callable[[int], None]]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let every product be computed by the thread that asks for it."""
    libraries = [own for package in ("numpy", "scipy") if (own := _openblas(package)) is not None]
    before = [read() for read, _ in libraries]
    for _, write in libraries:
        write(1)
    try:
        yield
    finally:
        for (_, write), threads in zip(libraries, before, strict=True):
            write(threads)


def can_limit() -> bool:
    """Whether `one_blas_thread` has an effect on numpy's products."""
    return _openblas("numpy") is not None


@cache
def _openblas(package: str) -> _Threads | None:
    """How many threads the OpenBLAS of a package uses: read it, write it; None where it came with another BLAS."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    for path in sorted([*root.parent.glob(f"{package}.libs/*openblas*"), *root.glob(".dylibs/*openblas*")]):
        library = ctypes.CDLL(str(path))
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            names = [f"{prefix}openblas_{what}_num_threads{suffix}" for what in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                return getattr(library, names[0]), getattr(library, names[1])
    return None
