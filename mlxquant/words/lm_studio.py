"""Which library LM Studio's engine loads a build through, and what that means: one answer for every command.

Read from the sources of mlx-engine, lms and lmstudio-js (2026): a model whose config.json has a `vision_config` goes
through mlx-vlm, which expects the tower and the processor's files; any other goes through mlx-lm. Alone in its module
because `check-load`, `convert --to lmstudio` and the documentation must not differ.
"""

from __future__ import annotations


def library_of(*, vision: bool) -> str:
    """The library that LM Studio's engine loads a build through; `vision`: its config.json has a `vision_config`.

    >>> library_of(vision=False)
    'mlx-lm'
    """
    return "mlx-vlm" if vision else "mlx-lm"


def used_by(library: str) -> str:
    """Who loads builds through one of the two libraries."""
    if library == "mlx-lm":
        return "mlx_lm.generate and mlx_lm.server, and LM Studio for models without a vision_config"
    return "LM Studio for models with a vision_config"


def vision_text(*, vision: bool) -> str:
    """What a build with or without its vision tower is in LM Studio, as one sentence."""
    if vision:
        return (
            "with its vision tower: LM Studio loads it through mlx-vlm and takes images, without quantizing the KV"
            " cache; --no-vision leaves the tower out"
        )
    return "text only: LM Studio loads it through mlx-lm"
