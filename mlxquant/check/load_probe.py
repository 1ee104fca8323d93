"""Load a build in one library, with strict names; count what was loaded; run it for a few tokens.

This file is run as text by another interpreter (see `check_load`), which may have neither this package nor its
versions; it imports nothing of it, and nothing at the top but the standard library. Its arguments are the library,
the build, where to write the answer, how many tokens to generate, the folder to read the tokenizer from (the build, or
one without the names of its code), and why the build must not be loaded, if so. The answer is one JSON object.

A build counts as loaded when its files hold every parameter of the model, with the right shape, and nothing else:
`strict`. Whether it then also runs is a separate part of the answer: experts at source precision run on a GPU only.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROMPT = "The capital of France is"
SEEN = "Describe this image."
_NO_SUCH_MODEL = re.compile(r"Model type \S+ not supported")  # mlx-lm and mlx-vlm say so alike
TEMPLATE_S = 10  # what rendering a build's chat template may take


class _Warnings(logging.Handler):
    """Collects what a library warns of while it loads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage()[:500])


def probe(library: str, build: str, tokens: int, tokenizer: str, refusal: str) -> dict[str, Any]:
    """Load a build in one library and give the answer; with 0 tokens it is not run."""
    answer: dict[str, Any] = {
        "library": library,
        "python": platform.python_version(),
        "installed": False,
        "loaded": False,
    }
    try:
        answer["version"] = importlib.metadata.version(library)
        importlib.import_module(library.replace("-", "_"))
    except importlib.metadata.PackageNotFoundError:
        return answer
    except Exception as error:  # noqa: BLE001 - a library that cannot be imported says so in its own way
        return {**answer, "installed": True, "error": _one_line(error)}
    if refusal:
        return {**answer, "installed": True, "error": refusal}
    import mlx.core as mx

    device = mx.default_device().type
    answer |= {"installed": True, "mlx": importlib.metadata.version("mlx"), "device": str(device).rpartition(".")[2]}
    warnings = _Warnings()
    logging.getLogger().addHandler(warnings)
    began = time.monotonic()
    try:
        model = _load(library, Path(build))
    except Exception as error:  # noqa: BLE001 - whatever keeps a build from loading is the answer
        lacking = {"unsupported": True} if _NO_SUCH_MODEL.match(str(error)) else {}
        return {**answer, **lacking, "error": _one_line(error), "warnings": warnings.messages}
    answer |= {"loaded": True, "strict": True, "load_s": round(time.monotonic() - began, 3), **_look(model)}
    if tokens and library == "mlx-lm":
        answer |= _generate_text(model, Path(tokenizer), tokens)
    elif tokens:
        answer |= _generate_seen(model, Path(build), tokens)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer["mlx_peak_bytes"] = int(mx.get_peak_memory())
    answer["rss_peak_bytes"] = rss if sys.platform == "darwin" else rss * 1024
    return {**answer, "warnings": warnings.messages}


def _load(library: str, build: Path) -> Any:
    utils = importlib.import_module(f"{library.replace('-', '_')}.utils")
    # the older versions of mlx-lm run the file that this key names
    safe = {"model_config": {"model_file": None}} if library == "mlx-lm" else {}
    loaded = utils.load_model(build, strict=True, **safe)
    return loaded[0] if isinstance(loaded, tuple) else loaded


def _look(model: Any) -> dict[str, Any]:
    """Count what was loaded: arrays, bytes, and modules by format."""
    from mlx.utils import tree_flatten

    arrays: Any = tree_flatten(model.parameters())
    formats: dict[tuple[int, int, str], int] = {}
    for _, module in model.named_modules():
        if "scales" in module and hasattr(module, "bits"):
            key = (module.bits, module.group_size, getattr(module, "mode", "affine"))
            formats[key] = formats.get(key, 0) + 1
    return {
        "arrays": len(arrays),
        "bytes": sum(int(a.nbytes) for _, a in arrays),
        "formats": [
            {"bits": bits, "group_size": group, "mode": mode, "modules": n}
            for (bits, group, mode), n in sorted(formats.items())
        ],
    }


def _generate_text(model: Any, folder: Path, tokens: int) -> dict[str, Any]:
    """A few greedy tokens from mlx-lm, after a prompt without a chat template."""
    try:
        import mlx.core as mx
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_tokenizer

        tokenizer = load_tokenizer(folder, {"trust_remote_code": False})
        prompt = mx.array(tokenizer.encode(PROMPT))
        generated = [int(token) for token, _ in generate_step(prompt, model, max_tokens=tokens)]
        return {"text": {"tokens": generated, "text": tokenizer.decode(generated)}}
    except Exception as error:  # noqa: BLE001 - a model that loads and does not run says why
        return {"text": {"error": _one_line(error)}}


def _generate_seen(model: Any, build: Path, tokens: int) -> dict[str, Any]:
    """A few greedy tokens from mlx-vlm, after text and, where the model sees, after an image."""
    from mlx_vlm import generate
    from mlx_vlm.prompt_utils import apply_chat_template
    from mlx_vlm.utils import load_processor

    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "picture.png")
        sees = bool(getattr(model, "vision_tower", None) or getattr(model, "vision_model", None))
        for name, prompt, images in (("text", PROMPT, []), ("image", SEEN, [picture] if sees else None)):
            if images is None:
                continue
            try:
                processor = load_processor(build, True, eos_token_ids=getattr(model.config, "eos_token_id", None))
                if images:
                    _write_picture(picture)
                with _bounded("its chat template"):
                    question = apply_chat_template(processor, model.config, prompt, num_images=len(images))
                reply = generate(model, processor, question, image=images or None, max_tokens=tokens, temperature=0.0)
                answers[name] = {"text": getattr(reply, "text", reply)}
            except Exception as error:  # noqa: BLE001 - a model that loads and does not run says why
                answers[name] = {"error": _one_line(error)}
    return answers


@contextmanager
def _bounded(what: str, seconds: int = TEMPLATE_S) -> Iterator[None]:
    """Raise TimeoutError where what is done takes too long; where that hangs in C, end the process a little later."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{what} renders for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True)  # its thread needs no interpreter
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def _write_picture(path: str) -> None:
    """A small picture with something on it: a square in a gradient."""
    from PIL import Image

    picture = Image.new("RGB", (64, 64))
    picture.putdata(
        [(255, 0, 0) if 16 <= i % 64 < 48 and 16 <= i // 64 < 48 else (i % 64, i // 64, 99) for i in range(4096)]
    )
    picture.save(path)


def _one_line(error: BaseException) -> str:
    """An error in a line or a few: what kind, and what it says first."""
    return f"{type(error).__name__}: {error}"[:2000]


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    answer = probe(sys.argv[1], sys.argv[2], int(sys.argv[4]), sys.argv[5], sys.argv[6])
    Path(sys.argv[3]).write_text(json.dumps(answer), encoding="utf-8")
