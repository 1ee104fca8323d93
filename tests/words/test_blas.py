"""The threads of numpy's and scipy's BLAS: one while that is asked for, and as many as before afterwards."""

from __future__ import annotations

import pytest

from mlxquant.words.blas import _openblas, one_blas_thread


@pytest.mark.parametrize("package", ["numpy", "scipy"])
def test_a_blas_has_one_thread_within_and_what_it_had_afterwards(package):
    library = _openblas(package)
    if library is None:
        pytest.skip(f"{package} came with another BLAS than OpenBLAS")
    read, write = library
    before = read()
    write(2)
    try:
        with pytest.raises(KeyboardInterrupt), one_blas_thread():
            assert read() == 1
            with one_blas_thread():
                assert read() == 1
            assert read() == 1
            raise KeyboardInterrupt
        assert read() == 2
    finally:
        write(before)


def test_a_package_that_is_not_there_has_no_blas():
    assert _openblas("no_such_package") is None
