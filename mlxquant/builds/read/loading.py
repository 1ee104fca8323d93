"""Builds loaded by mlx-lm or their other provider, tokenizers by mlx-lm, the one way in which mlxquant does it.

Without code of theirs, and unasked.
The oldest mlx-lm that is allowed (0.31.3) runs config.json's `model_file`, and transformers asks on stdout whether to
run a tokenizer's code unless it is told not to. Here both are told, whatever is in the files by the time that they are
read. What cannot be had without that code is refused (see `remote_code`). Nothing is downloaded: the folder is there.

The library that `check_load` tries in a process of its own is told the same in `load_probe`, which cannot import this.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import BuildError, SourceError
from ...layout.mlx_lm import mlx_lm_utils, module_name
from ...layout.provider import MLX_LM, Provider, provider_of, provider_stated
from ...source.checkpoint import read_config, refuse_unloadable
from ...source.headers import shown
from ...source.remote_code import named_code, plain_folder, tokenizer_code
from ..manifest import read_manifest
from .templates import bound_template

_TOKENIZER = "tokenizer.json"
_log = logging.getLogger(__name__)


def load_build(folder: Path) -> tuple[Any, Any]:
    """Load a build: its provider's model, weights not evaluated yet where mlx is lazy, and tokenizer.

    Raises BuildError.
    """
    mlx_lm_utils()  # which must be imported with care, before anything imports it without
    try:
        refuse_unloadable(folder)
        config = read_config(folder / "config.json", folder / "generation_config.json")  # refuses model_file
        provider = _provider(folder, config)
    except SourceError as error:
        raise BuildError(f"{folder}: {error}") from error
    try:
        model = provider.load(folder, config)  # a file that changes meanwhile is not run either
    except Exception as error:  # third parties' code
        raise BuildError(f"{folder}: {provider.name} cannot load it ({_said(error)})") from error
    try:
        return model, load_tokenizer(folder, str(folder), config)
    except SourceError as error:
        raise BuildError(str(error)) from error


def _provider(folder: Path, config: Mapping[str, Any]) -> Provider:
    """The provider that a build's manifest states, else the first that has its model.

    Raises LayoutError, BuildError.
    """
    manifest = read_manifest(folder)
    stated = provider_stated(manifest["source"]).name if manifest else None
    provider = provider_of(config, stated)
    if provider is MLX_LM:
        module_name(config)  # mlx-lm would import any name
    return provider


def load_tokenizer(folder: Path, name: str, config: Mapping[str, Any]) -> Any:
    """Load a folder's tokenizer, chat template included, as mlx-lm wraps it. Raises SourceError.

    A tokenizer with code of its own is read from its tokenizer.json, which is said as a warning.
    """
    if not named_code(folder):
        return _loaded(folder, name, config)
    with tempfile.TemporaryDirectory(prefix="mlxquant-") as plain:
        plain_folder(folder, Path(plain), name)
        tokenizer = _loaded(Path(plain), name, config)
    if code := tokenizer_code(folder):
        _log.warning(
            "mlxquant: %s: its tokenizer's own code (%s) is not run; read from %s instead", name, code, _TOKENIZER
        )
    return tokenizer


def _loaded(folder: Path, name: str, config: Mapping[str, Any]) -> Any:
    load = mlx_lm_utils().load_tokenizer
    refuse_unloadable(folder)
    _refuse_unknown_class(folder, name)
    try:
        tokenizer = load(folder, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # third parties' code; tokenizers raises Exception itself
        raise SourceError(f"{name}: its tokenizer cannot be loaded ({_said(error)})") from error
    bound_template(tokenizer, name)
    return tokenizer


def _refuse_unknown_class(folder: Path, name: str) -> None:
    """Refuse a tokenizer of a class that transformers lacks, unless tokenizer.json says all: it would be guessed."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name

    if (folder / _TOKENIZER).is_file():
        return
    try:
        wanted = get_tokenizer_config(folder, local_files_only=True).get("tokenizer_class")
        there = not isinstance(wanted, str) or any(
            tokenizer_class_from_name(each) is not None for each in (wanted, f"{wanted}Fast")
        )
    except (OSError, ValueError, AttributeError):
        return  # load says so
    if not there:
        raise SourceError(
            f"{name}: its tokenizer is a {shown(wanted)}, which transformers does not have, and it has no {_TOKENIZER};"
            " code of a model is not run here"
        )


def run_failure(error: BaseException) -> str:
    """Why a loaded model did not run, in the library's words, with what to do where mlx cannot compute it on a CPU."""
    reason = f"{type(error).__name__}: {error}"
    if "GatherMM" not in reason:
        return reason
    return (
        f"{reason.rstrip('.')}: on a CPU mlx multiplies unquantized experts in float32 only; write such a build with"
        " `mlxquant convert --dtype float32`"
    )


def _said(error: BaseException) -> str:
    """An error of a library's in a line: what kind, and what it says first."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
