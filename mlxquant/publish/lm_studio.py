"""Where LM Studio looks for models, what a build is called there, and whether it brings its vision tower along.

LM Studio shows what lies in ``MODELS/PUBLISHER/NAME``. MODELS is the `downloadsFolder` of settings.json in LM Studio's
home, else `models` there. The home is what the variable LMSTUDIO_HOME names, else what ~/.lmstudio-home-pointer holds,
else ~/.cache/lm-studio where that is, else ~/.lmstudio: as `lms` finds it (lmstudio-ai/lms src/modelsFolder.ts,
lmstudio-js findLMStudioHome.ts). Nothing of LM Studio's own is written.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..disk.files import read_regular
from ..errors import OutputError, UsageError
from ..layout.carried import TOWERS, VISION, kind_of
from ..layout.provider import provider_of
from ..source.checkpoint import Checkpoint
from ..words.lm_studio import vision_text
from ..words.text import printable

PUBLISHER = "mlxquant"
_LARGEST = 1 << 20
# A name of LM Studio's folders that no tool has to quote
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True, slots=True)
class Models:
    """LM Studio's folder of models, and what a person should know of how it was found."""

    folder: Path
    notes: tuple[str, ...] = ()


def models_folder() -> Models:
    """Find LM Studio's folder of models. Raises OutputError where its settings name a folder that is not there."""
    home = _home()
    if not home.is_dir():
        return Models(home / "models", (f"LM Studio has not been started here yet: it will look in {home / 'models'}",))
    settings = home / "settings.json"
    try:
        named = json.loads(read_regular(settings, _LARGEST))["downloadsFolder"]
        folder = Path(named).expanduser()
    except FileNotFoundError:
        return Models(home / "models")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Models(home / "models", (f"{settings}: names no downloadsFolder, so models lie in {home / 'models'}",))
    if not folder.is_absolute() or not folder.is_dir():
        raise OutputError(
            f"{settings}: downloadsFolder is {printable(str(named))}, which is not there;"
            " connect that disk, or choose the folder anew in LM Studio (My Models)"
        )
    return Models(folder)


def _home() -> Path:
    if named := os.environ.get("LMSTUDIO_HOME"):
        return Path(named).expanduser().absolute()
    user = Path.home()
    try:
        pointer = read_regular(user / ".lmstudio-home-pointer", _LARGEST).decode("utf-8").strip()
    except (OSError, ValueError):
        pointer = ""
    if pointer and Path(pointer).is_absolute() and "\0" not in pointer:
        return Path(pointer)
    older = user / ".cache" / "lm-studio"
    return older if older.is_dir() else user / ".lmstudio"


def build_name(source: str, recipe: str) -> str:
    """What a build is called by itself: source and recipe, in signs that need no quotes.

    >>> build_name("Qwen3.5-122B-A10B", "gates-8bit:bits=4")
    'Qwen3.5-122B-A10B-gates-8bit-bits-4'
    """
    return re.sub(r"[^\w.-]+", "-", f"{source}-{recipe}", flags=re.ASCII).lstrip(".-")


def place(models: Models, word: Path | None, names: list[str]) -> list[Path]:
    """Where builds go: as NAME or PUBLISHER/NAME says for one, as PUBLISHER says for several; `names` are their own.

    Raises UsageError for a word that is no such name.
    """
    parts = () if word is None else word.parts
    if any(not _NAME.fullmatch(part) for part in parts) or len(parts) > (2 if len(names) == 1 else 1):
        expected = "NAME or PUBLISHER/NAME" if len(names) == 1 else "PUBLISHER, of several builds,"
        raise UsageError(f"-o {word}: with --to lmstudio {expected} expected, in letters, digits and . _ -")
    if len(names) > 1:
        return [models.folder / (parts[0] if parts else PUBLISHER) / name for name in names]
    publisher, name = parts if len(parts) == 2 else (PUBLISHER, *(parts or names))
    return [models.folder / publisher / name]


def vision_of(source: Checkpoint, provider: str | None = None) -> tuple[bool, str]:
    """Whether a build for LM Studio brings the vision tower along, and why, as a sentence.

    It does where the source has one that can be written as mlx-vlm reads it and has the files of its processor: then
    LM Studio takes images. Else a text-only build is what opens there. A `provider` whose classes hold the tower
    themselves leaves no choice.
    """
    kind = source.config.get("model_type")
    if provider_of(source.config, provider).whole:
        return False, vision_text(vision="vision_config" in source.config).partition(";")[0]
    if not any(kind_of(name, 1 << 62) == VISION for name in source.tensors):
        return False, vision_text(vision=False)
    if kind not in TOWERS:
        return False, f"{vision_text(vision=False)}; the vision tower of a {kind} cannot be carried along"
    listing = source.reader.listing() if source.reader is not None else []
    if not any(name in listing for name in _PROCESSOR):
        return False, f"{vision_text(vision=False)}; the source has no {_PROCESSOR[0]}, which images need"
    return True, vision_text(vision=True)
