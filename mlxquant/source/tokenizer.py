"""Whether a source or build has a tokenizer, and what of it a build does not take along.

A tokenizer is read from tokenizer.json, from a vocabulary (SentencePiece, tiktoken, word pieces, byte pairs), or by
code of its own that tokenizer_config.json names under `auto_map`. Such code is copied with --trust-remote-code alone,
and never run here; what is left out is said, since a build without it loads nowhere.

Nothing is opened here but tokenizer_config.json and config.json, for the names of that code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from ..errors import SourceError
from ..words.text import some
from .headers import load_json, shown

CONFIG, MODEL_CONFIG = "tokenizer_config.json", "config.json"
# What a tokenizer can be read from, any one of them.
_READ_FROM = (
    "tokenizer.json", "tokenizer.model*", "*.tiktoken", "tiktoken.model", "tekken.json", "vocab.json", "vocab.txt",
    "vocab.jsonl", "*spiece.model", "spm.model", "sentencepiece*.model", "*.bpe.model", "vocab.model",
)  # fmt: skip
# What a tokenizer may be made of, whatever its suffix.
_PARTS = ("tokenizer*", "tokenization*", "vocab*", "merges*", "*.bpe", "*.spm", "*.codes", "*tiktoken*")
_MODULE = re.compile(r"(?:(?P<repository>[\w.-]+/[\w.-]+)--)?(?P<module>\w+(?:\.\w+)*)\.\w+", re.ASCII)

NO_TOKENIZER = (
    "has no tokenizer (tokenizer.json, tokenizer.model, *.tiktoken, vocab.json or vocab.txt); mlx-lm and mlx-vlm need"
    " one to run the model: copy that of its base model"
)


def has_tokenizer(names: Iterable[str]) -> bool:
    """Whether one of these files is what a tokenizer is read from."""
    return any(fnmatchcase(name.lower(), pattern) for name in names for pattern in _READ_FROM)


def tokenizer_notes(
    names: Collection[str], copied: Collection[str], read: Callable[[str], bytes], *, trust_remote_code: bool
) -> Iterator[str]:
    """Say what a build lacks of the source's tokenizer, and what code it takes along.

    `names` are the source's files, `copied` those that the build gets, `read` gives the bytes of one.
    """
    code = sorted(name for name in names if name.endswith(".py"))
    where, settings = CONFIG, _table(CONFIG, names, read)
    if settings is None:
        yield f"{CONFIG} is not readable as JSON, so that no tokenizer can be loaded with it; download it again"
        settings = {}
    named, elsewhere = _named(settings.get("auto_map"))
    if not named and not elsewhere and settings.get("tokenizer_class") is None:  # transformers looks there then
        mapped = (_table(MODEL_CONFIG, names, read) or {}).get("auto_map")
        where, (named, elsewhere) = MODEL_CONFIG, _named(mapped if isinstance(mapped, dict) else None)
    if not has_tokenizer(names) and not named and not elsewhere:
        yield f"the source {NO_TOKENIZER} into the build"
    if named:
        yield from _own_code(named, code, where, trust_remote_code=trust_remote_code)
    if elsewhere:
        yield (
            f"{where} names code of another repository ({some(elsewhere, 2)}) for the tokenizer: mlx-lm loads it"
            " only with trust_remote_code, from the Hub"
        )
    others = [name for name in code if name not in named]
    if others and not trust_remote_code:
        yield f"left out: {some(others)}, code that no class of mlx-lm needs; --trust-remote-code copies it"
    parts = [n for n in names if any(fnmatchcase(n.lower(), p) for p in _PARTS) and not n.endswith(".py")]
    if strange := sorted(set(parts) - set(copied)):
        yield f"left out: {some(strange)}, a kind that mlx_lm.convert does not read; copy it if the tokenizer needs it"


def _own_code(named: list[str], code: list[str], where: str, *, trust_remote_code: bool) -> Iterator[str]:
    """What becomes of the tokenizer's own code."""
    missing = [name for name in named if name not in code]
    present = [name for name in named if name in code]
    way = "mlx-lm loads this tokenizer only with that code and trust_remote_code"
    if present and trust_remote_code:
        yield f"copied: {some(present)}, the tokenizer's own code, which {where} names; {way}"
    elif present:
        yield (
            f"left out: {some(present)}, the tokenizer's own code, which {where} names. --trust-remote-code copies it"
            f" (it is not run here); {way}"
        )
    if missing:
        yield f"{where} names {some(missing)} for the tokenizer, which the source does not have; {way}"


def _named(mapped: Any) -> tuple[list[str], list[str]]:
    """Files of the code that an `auto_map` names for the tokenizer, and names of code in other repositories."""
    value = mapped.get("AutoTokenizer") if isinstance(mapped, dict) else mapped
    words = value if isinstance(value, list) else [value]
    files, elsewhere = list[str](), list[str]()
    for word in words:
        match = _MODULE.fullmatch(word) if isinstance(word, str) else None
        if match is None:
            continue
        if match["repository"]:
            elsewhere.append(shown(word))
        else:
            files.append(f"{match['module'].rpartition('.')[2]}.py")
    return sorted(set(files)), sorted(set(elsewhere))


def _table(name: str, names: Collection[str], read: Callable[[str], bytes]) -> dict[str, Any] | None:
    """A config's table; empty where there is none, None where it cannot be read."""
    try:
        return load_json(read(name), name, duplicates=True) if name in names else {}
    except (OSError, SourceError):
        return None
