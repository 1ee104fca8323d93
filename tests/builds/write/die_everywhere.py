"""Run by test_crash: convert once for each write point, in a process that dies there, and once more to the end.

    python die_everywhere.py SOURCE FOLDER POINTS

This process starts no thread, so it may be forked; each child converts, dying by `os._exit` or living to the end.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mlxquant.disk import files as disk
from mlxquant.kernels import quantize_rows
from mlxquant.words.formats import Format
from tests.builds.write.cases import Run, runner
from tests.builds.write.faults import hooked


def in_child(run: Run, out: Path, die_at: int | None) -> int:
    """Convert in a child; gives its exit code."""
    assert threading.active_count() == 1
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = [die_at]

    def die(operation: str, path: str) -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(7)

    code = 1
    try:
        with hooked(die):
            run(out)
        code = 0
    finally:
        os._exit(code)


def warm_up() -> None:
    """Compile the kernel here, once, rather than in every child."""
    weights = np.ones((1, 128), np.uint16)
    quantize_rows(weights, "BF16", Format(8, 32), errors=True)


def main() -> None:
    source, folder, points = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(disk, "_sync", lambda handle: None)
        run = runner(source)
        warm_up()
        for point in range(points):
            assert in_child(run, folder / f"{point}", point) == 7, point
            assert in_child(run, folder / f"{point}", None) == 0, point


if __name__ == "__main__":
    main()
