"""`mlxquant demo`: the main job, from a checkpoint to tokens, on a tiny model made on the spot."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import click

PROMPT = "The store has"
PAPER = ("gates-8bit", "deepseek-8bit")
PAPER_BUILDS = tuple(f"build-{recipe}" for recipe in PAPER)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep the checkpoint and the builds in this folder.")
def command(out: Path | None) -> None:
    """Run the whole chain on a tiny Qwen3.5-MoE checkpoint: plan, convert, audit, compare, generate.

    The checkpoint has the real one's layout (fused experts, linear and full attention, a shared expert, a
    tokenizer) and random weights, so its text makes no sense; everything else is as with a real model.

    \b
    mlxquant demo
    mlxquant demo -o demo-out
    """
    if out is not None and out.exists():
        raise click.UsageError(f"{out}: exists already; choose another folder, or remove it first")
    folder = Path(tempfile.mkdtemp(prefix="mlxquant-demo-")) if out is None else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.chdir(folder):  # so that every command stands as it can be typed there
            _chain()
    finally:
        if out is None:
            shutil.rmtree(folder)
    click.echo(_NEXT)


def _chain() -> None:
    from ..tiny import write_tiny_qwen3_5_moe

    source = Path("tiny-qwen3.5-moe")
    _say("A tiny checkpoint in the Hub's layout")
    write_tiny_qwen3_5_moe(source)
    for path in sorted(source.iterdir()):
        click.echo(f"  {path.stat().st_size:>9,}  {path.name}")
    for recipe in PAPER:
        _say(f"Plan: recipe {recipe}")
        _run("plan", source, "-r", recipe)
    for recipe in PAPER:
        _say(f"Convert: recipe {recipe}")
        _run("convert", source, "-r", recipe, "-o", f"build-{recipe}")
    for recipe in PAPER:
        _say(f"Audit: what is in the build {recipe}")
        _run("audit", f"build-{recipe}")
    _say("Difference between the two builds")
    _run("diff", *PAPER_BUILDS)
    _say(f"Load {PAPER_BUILDS[0]} in mlx-lm and generate")
    # gate modules stay bf16, which every backend can run; the experts are quantized
    click.echo(f"  {PROMPT!r} → {_generate(PAPER_BUILDS[0])!r}")


def _say(title: str) -> None:
    click.echo(f"\n== {title}")


def _run(*words: str | Path) -> None:
    """Run one of our own commands as a person types it, and show what was typed."""
    from . import main

    click.echo(f"$ mlxquant {' '.join(map(str, words))}")
    sys.stdout.flush()
    main.main([str(w) for w in words], prog_name="mlxquant", standalone_mode=False)


def _generate(build: str) -> str:
    import mlx_lm

    model, tokenizer = mlx_lm.load(build)[:2]
    return str(mlx_lm.generate(model, tokenizer, prompt=PROMPT, max_tokens=12))


_NEXT = """
Done. For a real model (nothing is downloaded to plan but headers):

  mlxquant plan    Qwen/Qwen3.5-122B-A10B -r gates-8bit --fits 256GB --context 32k
  mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit -o Qwen3.5-122B-A10B-8bit
  mlxquant audit   Qwen3.5-122B-A10B-8bit
  mlx_lm.generate --model Qwen3.5-122B-A10B-8bit --prompt "Hello"
"""
