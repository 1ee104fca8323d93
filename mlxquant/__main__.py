"""`python -m mlxquant`: the same as the command."""

import os
import sys

# `-m` looks for every module in the folder at hand first, which may be a stranger's; the command does not.
_HERE = os.getcwd()  # noqa: PTH109 - pathlib is not imported before this is done
if sys.path and sys.path[0] in ("", _HERE) and os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != _HERE:  # noqa: PTH100, PTH120
    del sys.path[0]

from .cli import main  # noqa: E402

main(prog_name="mlxquant")
