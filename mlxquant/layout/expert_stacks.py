"""Experts as the class wants them, where its own `sanitize` does not know the form that a checkpoint has.

- `stacked`, after `sanitize`: Qwen's FP8 repositories, and whatever transformers 5 saved, have
  `mlp.experts.7.down_proj.weight` where the bf16 ones have one `mlp.experts.down_proj`, and the `sanitize` of
  qwen3_5_moe knows only the latter (mlx-lm 0.32.2; pull request 1224). Experts that it leaves over one by one are
  stacked into the array that the model wants: (experts, out, in).
- `turned`, before `sanitize`: gpt-oss with unquantized experts, as fine-tunes have them, holds them as
  (experts, in, out) with the columns of gate and up in turns; mlx-lm's gpt_oss knows only the MXFP4 form,
  (experts, out, in) by blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .views.view import View, stack

_ONE = re.compile(r"(?P<block>.*)\.experts\.(?P<number>\d+)\.(?P<rest>\w+\.(?:weight|bias))", re.ASCII)
STACKED = "switch_mlp"
_GPT_OSS = re.compile(r".*\.mlp\.experts\.(gate_up_proj|down_proj)", re.ASCII)


def stacked(views: Mapping[str, View], parameters: Mapping[str, tuple[int, ...]]) -> dict[str, View]:
    """Stack experts that stand alone into the arrays that the model lacks otherwise.

    A set with a gap in its numbers, or of another size than the model's, is left for `check_arrays` to name.
    """
    experts: dict[str, dict[int, str]] = {}
    for name in views:
        if name not in parameters and (match := _ONE.fullmatch(name)):
            experts.setdefault(f"{match['block']}.{STACKED}.{match['rest']}", {})[int(match["number"])] = name
    arrays = dict(views)
    for target, members in experts.items():
        wanted = parameters.get(target)
        if wanted and target not in views and sorted(members) == list(range(wanted[0])):
            arrays[target] = stack([arrays.pop(members[number]) for number in range(wanted[0])])
    return arrays


def turned(model_type: object, weights: Mapping[str, View]) -> dict[str, View]:
    """Turn gpt-oss's unquantized experts, (experts, in, out), into the (experts, out, in) that `sanitize` splits."""
    if model_type != "gpt_oss":
        return dict(weights)
    return {
        (f"{name}.weight" if fits else name): (view.swapaxes(-1, -2) if fits else view)
        for name, view in weights.items()
        for fits in [view.ndim == 3 and _GPT_OSS.fullmatch(name) is not None]
    }
