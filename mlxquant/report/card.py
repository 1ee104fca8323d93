"""The model card of a build: README.md for the Hub, made from the build's own records and nothing else.

Pure functions of `mlxquant.json`, `audit.json` and bench records: the same build gives the same card. What the records
do not say (a license, what the model is good at) is left out; the card points to the model it was made from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..records.modules import grouped, nonfinite_note, not_a_number, stored_as
from ..words.text import code, markdown, markdown_table
from ..words.units import show_bytes, show_count, show_size
from .audit_markdown import by_role, sqnr
from .bench import bench_markdown
from .common import error_text, provider_text, recipe_text

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def card(
    repository: str,
    manifest: Mapping[str, Any],
    audit: Mapping[str, Any],
    benches: Sequence[Mapping[str, Any]] = (),
    *,
    base_model: str | None = None,
) -> str:
    """Write README.md. `base_model` is the source's Hub id, where the manifest knows a folder's name only."""
    base = base_model or base_of(manifest)
    parts = [
        _front(manifest, base),
        f"# {repository.partition('/')[2]}",
        _lead(manifest, base),
        _facts(manifest, audit),
        "## How to load it",
        _loading(repository, manifest),
        "## What is kept at full precision, and why",
        _protected(audit),
        "## Audit",
        *_audit(audit),
        *_measurements(benches),
        "## Made with",
        _made_with(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def base_of(manifest: Mapping[str, Any]) -> str | None:
    """The Hub id that a build was made from; None where it was a folder, whose name may be anything."""
    source = manifest["source"]
    name = str(source.get("name"))
    return name if source.get("revision") and _HUB_ID.fullmatch(name) else None


def _front(manifest: Mapping[str, Any], base: str | None) -> str:
    """The YAML at the top, as the Hub reads it. JSON strings are YAML strings."""
    vision = "vision" in manifest["options"].get("keep", ())
    default = manifest["recipe"].get("quantize")
    tags = ["mlx", "mlxquant", manifest["source"].get("model_type"), f"{default['bits']}-bit" if default else None]
    lines = ["---", "library_name: mlx", f"pipeline_tag: {'image-text-to-text' if vision else 'text-generation'}"]
    if base:
        lines += [f"base_model: {json.dumps(base)}", "base_model_relation: quantized"]
    return "\n".join([*lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags if tag), "---"])


def _lead(manifest: Mapping[str, Any], base: str | None) -> str:
    source, recipe = manifest["source"], manifest["recipe"]
    name = f"[{base}](https://huggingface.co/{base})" if base else code(source.get("name"))
    commit = f" at commit `{source['revision'][:12]}`" if source.get("revision") else ""
    of = f"{code(recipe.get('name'))} is " if recipe.get("overrides") else ""  # its summary knows nothing of overrides
    what = f"{of}{markdown(recipe.get('summary') or '-')}"
    return (
        f"{name}{commit} for MLX, quantized with the recipe {code(recipe_text(recipe))}: {what}."
        f"{f' {base} says what the model can do and under which license it may be used.' if base else ''}"
    )


def _facts(manifest: Mapping[str, Any], audit: Mapping[str, Any]) -> str:
    totals, quantized = manifest["totals"], audit["totals"]["quantized"]
    errors = audit["totals"]["errors"]
    rows = [
        ("size", show_size(totals["bytes"])),
        ("parameters", f"{show_count(totals['parameters'])} ({totals['parameters']:,})"),
        ("bits per weight", f"{totals['bpw']:.4f}"),
        ("quantized", f"{quantized['modules']:,} modules, {show_count(quantized['parameters'])} parameters"),
        ("protected", f"{audit['protected']['modules']:,} modules that MLX could quantize"),
        ("recipe", f"{code(manifest['recipe'].get('name'))}, sha256 {code(manifest['recipe'].get('sha256'))}"),
    ]
    if errors:
        relative = errors["relative_rms_error"]
        rows.append(("quantization error", f"{error_text(relative)} relative RMS, {sqnr(relative)} dB"))
    if missing := not_a_number(audit["modules"]):
        rows.append(("not measured", markdown(nonfinite_note(missing))))
    if overrides := manifest["recipe"].get("overrides"):
        rows.append(("changed", ", ".join(code(o) for o in overrides)))
    return markdown_table(("", ""), rows)


def _loading(repository: str, manifest: Mapping[str, Any]) -> str:
    if library := provider_text(manifest["source"]):
        return (
            f"With [mlx-vlm](https://github.com/Blaizzy/mlx-vlm) (made with the model class of {library}):\n\n"
            f"```bash\npip install -U mlx-vlm\nmlx_vlm.generate --model {repository} --prompt 'Hello'\n```"
        )
    versions = manifest["versions"]
    vision = "vision" in manifest["options"].get("keep", ())
    parts = [
        f"With [mlx-lm](https://github.com/ml-explore/mlx-lm) (made with {versions.get('mlx-lm')}):",
        f"```bash\npip install -U mlx-lm\nmlx_lm.generate --model {repository} --prompt 'Hello'\n```",
        f'```python\nfrom mlx_lm import generate, load\n\nmodel, tokenizer = load("{repository}")\n'
        'messages = [{"role": "user", "content": "Hello"}]\n'
        "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)\n"
        "print(generate(model, tokenizer, prompt=prompt))\n```",
        "In LM Studio: search for the name of this repository, or",
        f"```bash\nlms get https://huggingface.co/{repository}\n```",
    ]
    if vision:
        parts.append(f"Images, with mlx-vlm: `python -m mlx_vlm.generate --model {repository} --image a.jpg`")
    return "\n\n".join(parts)


def _protected(audit: Mapping[str, Any]) -> str:
    protected = [m for m in audit["modules"] if m["protected"]]
    if not protected:
        return "Nothing that MLX could quantize: norms and other small tensors alone stay as they are."
    rows = [
        (
            g.first["role"],
            f"{len(g.members):,}",
            stored_as(g.first),
            show_bytes(g.sum("bytes")),
            markdown(g.first["reason"]),
        )
        for g in grouped(protected, lambda m: (m["role"], m["dtype"], m["reason"]))
    ]
    return markdown_table(("role", "modules", "kept as", "size", "reason"), rows)


def _audit(audit: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            g.first["role"] + (f" ({g.first['layer_type']})" if g.first["layer_type"] else ""),
            stored_as(g.first),
            f"{len(g.members):,}",
            show_bytes(g.sum("bytes")),
            error_text(g.errors.relative if g.errors else None),
            sqnr(g.errors.relative if g.errors else None),
        )
        for g in by_role(audit)
    ]
    yield markdown_table(("role", "stored as", "modules", "size", "rel. RMS error", "SQNR dB"), rows)
    yield (
        "Every module stands in `AUDIT.md` and `audit.json`; `mlxquant audit` draws them up again from the bytes."
        " `mlxquant.json` has the hash of every file and the checksum of every tensor."
    )


def _measurements(benches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if benches:
        yield "## Measurements"
    yield from (bench_markdown(record) for record in benches)


def _made_with(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(markdown(f"{name} {version}") for name, version in manifest["versions"].items())
    machine = manifest["machine"]
    return f"{versions}; on {markdown(machine.get('chip'))}, {markdown(machine.get('os'))}."
