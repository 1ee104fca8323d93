"""`mlxquant demo`: the main job, from a checkpoint to a request served, on the tiny model that comes along."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import click

from .options import output_option
from .printing import echo

PAPER = ("gates-8bit", "deepseek-8bit")
TASK = 1_000_003  # the model was trained on seeds below 1,000,000
PAPER_BUILDS = tuple(f"build-{recipe}" for recipe in PAPER)


@click.command()
@output_option("Keep the checkpoint and the builds in this folder.", metavar="FOLDER", name="out")
def command(out: Path | None) -> None:
    """Run the whole chain on a tiny Qwen3.5-MoE: plan, convert, audit, diff, serve a request.

    The checkpoint comes with the package, 4 MB in the real one's layout (fused experts, linear and full
    attention, a shared expert), trained to work a small store with tools; everything is as with a real model.

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
    echo(_NEXT)


def _chain() -> None:
    from ..evals.store.model import write_store_moe

    source = Path("store-moe")
    _say("A tiny checkpoint in the Hub's layout")
    write_store_moe(source)
    for path in sorted(source.iterdir()):
        echo(f"  {path.stat().st_size:>9,}  {path.name}")
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
    _say(f"Load {PAPER_BUILDS[0]} in mlx-lm and let it serve a request")
    # gate modules stay bf16, which every backend can run; the experts are quantized
    _serve(PAPER_BUILDS[0])


def _say(title: str) -> None:
    echo(f"\n== {title}")


def _run(*words: str | Path) -> None:
    """Run one of our own commands as a person types it, and show what was typed."""
    from . import main

    echo(f"$ mlxquant {' '.join(map(str, words))}")
    sys.stdout.flush()
    main.main([str(w) for w in words], prog_name="mlxquant", standalone_mode=False)


def _serve(build: str) -> None:
    """Let a build do the first request of a task that it never saw, with tools that really answer."""
    from ..builds.read.loading import load_build
    from ..evals.store import Store, make_task

    task = make_task(TASK, 5)
    model, tokenizer = load_build(Path(build))
    import mlx_lm  # which `load_build` has imported, whatever the limit of open files

    messages: list[dict[str, object]] = [{"role": "user", "content": task.turns[0].user}]
    echo(f"  user   {task.turns[0].user}")
    with Store(task.seed) as store:
        for _ in range(2 * len(task.turns[0].calls) + 1):  # a model that went astray ends somewhere, too
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            reply = str(mlx_lm.generate(model, tokenizer, prompt=prompt, max_tokens=80))
            if tokenizer.tool_call_start not in reply:
                echo(f"  model  {reply}")
                return
            text = reply.split(tokenizer.tool_call_start)[1].split(tokenizer.tool_call_end)[0]
            try:
                call = tokenizer.tool_parser(text)
                answer = store.call(call["name"], call["arguments"])
            except (ValueError, TypeError, KeyError):
                echo(f"  model  {reply}   (no valid call)")
                return
            result = json.dumps(answer, separators=(",", ":"))
            echo(f"  call   {call['name']} {json.dumps(call['arguments'])}\n  result {result}")
            messages.append({"role": "assistant", "content": "", "tool_calls": [{"function": call}]})
            messages.append({"role": "tool", "content": result})


_NEXT = """
Done. For a real model (nothing is downloaded to plan but headers):

  mlxquant plan    Qwen/Qwen3.5-122B-A10B -r gates-8bit --fits 256GB --context 32k
  mlxquant convert Qwen/Qwen3.5-122B-A10B -r gates-8bit -o Qwen3.5-122B-A10B-8bit
  mlxquant audit   Qwen3.5-122B-A10B-8bit
  mlx_lm.generate --model Qwen3.5-122B-A10B-8bit --prompt "Hello"
"""
