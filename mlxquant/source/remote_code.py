"""Code that a checkpoint or build brings along: where its files name such code, and a folder without it.

mlxquant never runs that code. mlx-lm runs a file that config.json names as `model_file`, the older versions without
asking, so such a config is refused wherever one is read. transformers runs what `auto_map` names, or asks on stdout.
Models need none of that, mlx-lm has its own classes for them, so `auto_map` alone is no reason to refuse a checkpoint.
A tokenizer whose own code is named is read from its tokenizer.json instead, from a folder without code and without its
names (`plain_folder`); where there is no tokenizer.json it is refused.

Nothing is imported here, and nothing of what is named is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..disk.files import read_regular
from ..errors import SourceError
from .headers import load_json, shown
from .links import own_templates

# Files that transformers and mlx-vlm look for names of classes in, those of tokenizer and processors among them.
_CONFIGS = "*config.json"
_KEYS = ("auto_map", "model_file", "custom_pipelines")
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken", ".txt", ".jsonl")
_TOKENIZER = "tokenizer.json"


def refuse_model_code(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config that asks mlx-lm to run a file of the folder. Raises SourceError."""
    for key, value in _named(config):
        if key == "model_file":
            raise SourceError(
                f"{name}: needs its own code ({shown(value)}), which is not run here; where mlx-lm has a class for its"
                " model_type, take model_file out of config.json"
            )


def named_code(folder: Path) -> dict[str, str]:
    """The code that a folder's configs name, by file: "auto_map: evil.Tokenizer"; unreadable files name none."""
    code = {
        file.name: [f"{key}: {shown(_text(value))}" for key, value in _named(_read(file))]
        for file in sorted(folder.glob(_CONFIGS))
    }
    return {file: ", ".join(dict.fromkeys(names)) for file, names in code.items() if names}


def tokenizer_code(folder: Path) -> str | None:
    """The code that a folder's tokenizer is said to need, or None."""
    mapped = _read(folder / "tokenizer_config.json").get("auto_map")
    if isinstance(mapped, dict):
        mapped = mapped.get("AutoTokenizer")
    return shown(_text(mapped)) if mapped else None


def plain_folder(folder: Path, plain: Path, name: str) -> None:
    """Fill `plain` with what a folder's tokenizer is read from, without code and its names. Raises SourceError."""
    if (code := tokenizer_code(folder)) and not (folder / _TOKENIZER).is_file():
        raise SourceError(
            f"{name}: its tokenizer is code of its own ({code}), which is not run here, and it has no {_TOKENIZER},"
            f" from which it could be read without; put one there (many such models have a copy with it on the Hub)"
        )
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        if file.match(_CONFIGS):
            config = load_json(read_regular(file), file.name, duplicates=True)
            (plain / file.name).write_text(json.dumps(_without(config)), encoding="utf-8")
        elif file.suffix in _TOKENIZER_SUFFIXES:
            (plain / file.name).symlink_to(file.absolute())
    for name in own_templates(folder):
        (plain / name).parent.mkdir(exist_ok=True)
        (plain / name).symlink_to((folder / name).absolute())


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Keys that name code, at any depth, with their values."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if key in _KEYS and inner is not None:
            yield key, inner
        elif isinstance(inner, dict):
            yield from _named(inner)
        elif isinstance(inner, list):
            for each in inner:
                yield from _named(each)


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in _KEYS}
    return [_without(v) for v in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    """The names that an `auto_map` gives, without its keys."""
    if isinstance(value, dict):
        return ", ".join(_text(v) for v in value.values())
    if isinstance(value, list):
        return ", ".join(_text(v) for v in value if v is not None)
    return str(value)


def _read(file: Path) -> dict[str, Any]:
    """A config's table; empty where there is none that can be read, which whoever needs it says in its own words."""
    try:
        return load_json(read_regular(file), file.name, duplicates=True) if file.is_file() else {}
    except (OSError, SourceError):
        return {}
