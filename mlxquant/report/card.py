"""The model card of a build: README.md for the Hub, made from the build's own records and nothing else.

Pure functions of `mlxquant.json`, `audit.json`, bench records and verdicts: the same build gives the same card. What
the records do not say (what the model is good at) is left out; the card points to the model it was made from. A license
is said by whoever uploads, and how to sample by the build's generation_config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records.metrics import metric_named
from ..records.modules import grouped, nonfinite_note, not_a_number, stored_as
from ..words.text import code, markdown, markdown_table
from ..words.units import show_bytes, show_count, show_size
from .audit_markdown import by_role, sqnr
from .bench import bench_markdown
from .common import error_text, provider_text, recipe_text
from .verdict_exports import checks_markdown

# how mlx_lm.generate takes what generation_config.json says of sampling
_SAMPLING = {"temperature": "--temp", "top_p": "--top-p", "top_k": "--top-k", "min_p": "--min-p"}
_LARGEST = 1e6
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Said:
    """What a card says that the build's records do not: license, base model, measurements, verdicts.

    `base_model` is the source's Hub id, where the manifest knows a folder's name only; `license` the Hub's id of a
    license, with name and link where it is ``other``; `generation` what generation_config.json holds.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    benches: Sequence[Mapping[str, Any]] = ()
    verdicts: Sequence[tuple[Mapping[str, Any], str]] = ()


def card(repository: str, manifest: Mapping[str, Any], audit: Mapping[str, Any], said: Said | None = None) -> str:
    """Write README.md. A verdict is a record with the name of this build among its candidates."""
    said = said or Said()
    base = said.base_model or base_of(manifest)
    parts = [
        _front(manifest, base, said),
        f"# {repository.partition('/')[2]}",
        _lead(manifest, base),
        _facts(manifest, audit),
        *(["## Quality"] if said.verdicts else []),
        *(_quality(record, name) for record, name in said.verdicts),
        "## How to load it",
        _loading(repository, manifest),
        *_sampling(repository, manifest, said.generation),
        "## What is kept at full precision, and why",
        _protected(audit),
        "## Audit",
        *_audit(audit),
        *_measurements(said.benches),
        "## Made with",
        _made_with(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def base_of(manifest: Mapping[str, Any]) -> str | None:
    """The Hub id that a build was made from; None where it was a folder, whose name may be anything."""
    source = manifest["source"]
    name = str(source.get("name"))
    return name if source.get("revision") and _HUB_ID.fullmatch(name) else None


def _front(manifest: Mapping[str, Any], base: str | None, said: Said) -> str:
    """The YAML at the top, as the Hub reads it. JSON strings are YAML strings."""
    vision = "vision" in manifest["options"].get("keep", ())
    default = manifest["recipe"].get("quantize")
    tags = ["mlx", "mlxquant", manifest["source"].get("model_type"), f"{default['bits']}-bit" if default else None]
    lines = ["---", "library_name: mlx", f"pipeline_tag: {'image-text-to-text' if vision else 'text-generation'}"]
    if base:
        lines += [f"base_model: {json.dumps(base)}", "base_model_relation: quantized"]
    for key in ("license", "license_name", "license_link"):
        if value := getattr(said, key):
            lines.append(f"{key}: {json.dumps(value)}")
    if values := sampling_of(said.generation):
        lines += ["inference:", "  parameters:", *(f"    {name}: {value}" for name, value in values.items())]
    return "\n".join([*lines, "tags:", *(f"- {json.dumps(tag)}" for tag in tags if tag), "---"])


def sampling_of(generation: Mapping[str, Any]) -> dict[str, float]:
    """What generation_config.json says of sampling, as far as it is a figure; nothing where it says to take the best.

    >>> sampling_of({"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": 3})
    {'temperature': 0.6, 'top_k': 20}
    """
    if generation.get("do_sample") is False:
        return {}
    values = ((name, generation.get(name)) for name in (*_SAMPLING, "repetition_penalty"))
    return {
        name: value
        for name, value in values
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    }


def _sampling(repository: str, manifest: Mapping[str, Any], generation: Mapping[str, Any]) -> Iterator[str]:
    """How to sample: mlx-lm does not read generation_config.json, so the figures are written as its options."""
    values = sampling_of(generation)
    if not values:
        return
    yield "## Sampling"
    listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
    yield f"`generation_config.json` of the model asks for {listed}; whoever serves it has to ask for the same."
    options = " ".join(f"{_SAMPLING[name]} {value:g}" for name, value in values.items() if name in _SAMPLING)
    if options and not provider_text(manifest["source"]):
        yield f"```bash\nmlx_lm.generate --model {repository} {options} --prompt 'Hello'\n```"


def _quality(record: Mapping[str, Any], name: str) -> str:
    """The verdict on this build: its word, what it was judged by, on what, and every check."""
    checks = [c for c in record["checks"] if c.get("candidate") == name]
    (side,) = (c for c in record["candidates"] if c["name"] == name)
    t, baseline = record["tolerances"], record.get("baseline") or {}
    evidence = ", ".join(f"{code(e['file'])} ({str(e['sha256'])[:12]})" for e in record.get("evidence") or [])
    by = "" if side.get("identity", {}).get("manifest_sha256") else " Judged as a recipe, not as this build's files."
    parts = [
        f"`mlxquant validate`: **{side.get('verdict') or record['verdict']}**, by tolerances {code(t.get('name'))}"
        f" (sha256 {code(str(t.get('sha256'))[:12])}, written {markdown(t.get('written') or t.get('written_by'))})"
        + (f", beside {markdown(baseline['name'])}" if baseline.get("name") else "")
        + f".{by}",
        checks_markdown(checks),
    ]
    meanings = {str(c["metric"]): m.meaning for c in checks if (m := metric_named(str(c["metric"])))}
    if meanings:
        parts.append("; ".join(f"{code(metric)}: {markdown(meaning)}" for metric, meaning in meanings.items()) + ".")
    if evidence:
        parts.append(f"Records: {evidence}.")
    notes = [*(record.get("warnings") or []), *(record.get("caveats") or [])]
    return "\n\n".join([*parts, *(["\n".join(f"- {markdown(note)}" for note in notes)] if notes else [])])


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
