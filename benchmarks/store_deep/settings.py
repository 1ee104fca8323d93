"""What differs from the store model: six layers, a larger vocabulary, the deep world's tasks.

Importing this module sets the constants of the scripts in ../tiny_moe, which do the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tiny_moe"))
import corpus
import fast
import held_out
import hub_layout
import shape
import vocabulary
from descent import Descent

from mlxquant.evals.store.deep import make_deep_task

__all__ = ["Descent", "Renderer", "corpus", "fast", "held_out", "hub_layout", "shape", "vocabulary"]

vocabulary.SIZE = 556  # every name, city, street and status is one token, so that copying a name is one step
# The beginning of a call up to the first character that is not always the same, and its end, are one token each. A
# capitalized word never holds the space before it: "Jon" is one token in a request and in a call, and can be copied.
vocabulary.PIECES = (
    r"""\n\{"name": "[a-z_]+", "arguments": \{"[a-z_]+":(?:"[A-Z](?=\d)|"|)|"?\}\}\n|"""
    r"""["}\]]*[,{\[]+"id":"[A-Z](?=\d)|["}\]]*[,{\[]+ ?"[a-z_]+": ?[\["{]*|\d|"""
    r"""\p{Lu}[\p{L}_]*| ?[\p{Ll}_][\p{L}_]*| ?[^\s\p{L}\d_]+|\s+"""
)
shape.LAYER_TYPES = ["linear_attention", "full_attention"] * 3


class Renderer(corpus.Renderer):
    """Transcripts of the deep world."""

    def text(self, seed: int, n_calls: int) -> str:
        """Render the deep task of a seed."""
        return self.render(make_deep_task(seed, n_calls))


corpus.Renderer = Renderer  # type: ignore[misc]
