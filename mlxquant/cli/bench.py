"""`mlxquant bench`: how fast builds run, or a server's models, or what their plan allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs
from ..errors import UsageError
from ..words.interrupts import asked_to_end
from ..words.secrets import secret_from
from .bars import progress_bar
from .chips import chips_named_by, own_points
from .options import json_option, markdown_flag, output_option, recipe_files
from .printing import echo

if TYPE_CHECKING:
    from ..bench.prompts import Prompts
    from ..bench.run import Bench
    from ..bench.workload import BenchSettings
    from ..builds.facts import Traffic

_HEADROOM = 1.15  # activations and caches beside the weights


@dataclass(frozen=True, kw_only=True)
class BenchArguments:
    """The command line of `bench`."""

    builds: tuple[str, ...]
    prompts: tuple[str, ...]
    generate: tuple[str, ...]
    depths: tuple[str, ...]
    repetitions: int
    batch: int
    prefill_step_size: int
    delay: float
    warmups: int
    seed: int
    load: str
    random_tokens: bool
    prompt_file: Path | None
    endpoint: str | None
    models: tuple[str, ...]
    served: tuple[str, ...]
    chat: bool
    timeout: float
    api_key_env: str | None
    predict: bool
    recipes: tuple[str, ...]
    chips: tuple[str, ...]
    bandwidth: float | None
    earlier: tuple[Path, ...]
    as_md: bool
    as_csv: bool
    as_json: bool
    as_jsonl: bool
    as_sql: bool
    output: Path | None


@click.command()
@click.argument("builds", nargs=-1, metavar="[BUILD]...")
@click.option(
    "-p", "prompts", multiple=True, metavar="N,…", help="Prompt lengths to prefill, as in llama-bench.  [512]"
)
@click.option("-n", "generate", multiple=True, metavar="N,…", help="Numbers of tokens to generate.  [128]")
@click.option("-d", "depths", multiple=True, metavar="N,…", help="Tokens in the cache before the clock starts.  [0]")
@click.option("-r", "repetitions", type=int, default=5, show_default=True, help="Rounds; an interval needs five.")
@click.option("-b", "batch", type=int, default=1, show_default=True, help="Sequences at once.")
@click.option("--prefill-step-size", type=int, default=2048, show_default=True, help="Prompt tokens at a time.")
@click.option("--delay", type=float, default=0.0, show_default=True, help="Seconds to rest before each run.")
@click.option("--warmups", type=int, default=1, show_default=True, help="Runs before the first that are not counted.")
@click.option("--seed", type=int, default=0, show_default=True, help="For the order of builds and for random tokens.")
@click.option("--load", type=click.Choice(["auto", "once", "each-round"]), default="auto", show_default=True,
              help="Keep all builds in memory, or load each anew every round.")  # fmt: skip
@click.option("--random-tokens", is_flag=True, help="Random token ids in place of text, as llama-bench does.")
@click.option("--prompt-file", type=click.Path(path_type=Path), help="Your own text in place of ours.")
@click.option("--endpoint", metavar="URL", help="Measure an OpenAI-compatible server: http://127.0.0.1:1234/v1.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model of the server; again for several.")
@click.option("--build", "served", multiple=True, metavar="FOLDER",
              help="With --endpoint: the build that a model is, for the record; one for each --model.")  # fmt: skip
@click.option("--chat", is_flag=True, help="Use /chat/completions, with the server's template.  [/completions]")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for a server's whole answer.")
@click.option("--api-key-env", metavar="VAR", help="The environment variable that holds the server's key.")
@click.option("--predict", is_flag=True,
              help="Run nothing: show what bandwidth and arithmetic allow, and what to expect.")  # fmt: skip
@click.option("--recipe", "recipes", multiple=True, metavar="RECIPE", help="With --predict: plan SOURCE with it.")
@click.option("--chip", "chips", multiple=True, metavar="NAME", help='With --predict: only these, such as "M3 Ultra".')
@click.option("--bandwidth", type=float, metavar="GB/s", help="This machine's memory bandwidth, if not in the table.")
@click.option("--from", "earlier", multiple=True, type=click.Path(path_type=Path), metavar="RECORD",
              help="Show an earlier record; several of the same builds and machine are pooled. With --predict: a"
              " record of your machine, in place of the published points of its chip.")  # fmt: skip
@markdown_flag("Print Markdown.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with llama-bench's columns.")
@json_option
@click.option("--jsonl", "as_jsonl", is_flag=True, help="Print a JSON line a result, with all samples.")
@click.option("--sql", "as_sql", is_flag=True, help="Print SQL that makes and fills a table.")
@output_option("Write the record there too; must not exist.")
def command(**options: Any) -> None:
    """Measure prefill and decode throughput of builds, in turn, through mlx-lm.

    Several builds are compared by the ratio of their speeds in the same round, with an interval. pp512 is a prompt of
    512 tokens until its first answer token, tg128 @ d4096 is 128 tokens after 4,096.

    \b
    mlxquant bench base agentic -p 512,2048 -d 0,4096 -o bench.json
    mlxquant bench --endpoint http://127.0.0.1:1234/v1 --model base --model agentic
    mlxquant bench --predict config.json --recipe gates-8bit --chip "M3 Ultra"
    mlxquant bench --predict config.json --recipe gates-4bit --from bench.json
    mlxquant bench --from monday.json --from tuesday.json --md
    """
    arguments = BenchArguments(**options)
    formats = (arguments.as_md, arguments.as_csv, arguments.as_json, arguments.as_jsonl, arguments.as_sql)
    if sum(formats) > 1:
        raise UsageError("one of --md, --csv, --json, --jsonl, --sql at a time")
    output = arguments.output
    if output is not None:
        inputs: list[tuple[str, str | Path]] = [("BUILD", build) for build in arguments.builds]
        inputs += [("--from", path) for path in arguments.earlier]
        inputs += [("--build", build) for build in arguments.served]
        inputs += [("--prompt-file", arguments.prompt_file)] if arguments.prompt_file else []
        check_outputs([OutputFile("-o", output)], [*inputs, *recipe_files(arguments.recipes)])
    settings = _settings(arguments)
    if arguments.predict:
        _predict(settings, arguments)
        return
    record = _pooled(arguments) if arguments.earlier else _measured(settings, arguments)
    _show(record, arguments)
    if asked_to_end():  # Ctrl-C: what was measured is shown, and the exit code tells that it is not all
        raise KeyboardInterrupt
    from ..bench.record import unmeasured

    if missing := unmeasured(record):
        from ..errors import MeasurementError
        from ..words.text import listed

        raise MeasurementError("unmeasured", "not measured:\n" + listed(missing))


def _settings(arguments: BenchArguments) -> BenchSettings:
    from ..bench.workload import BenchSettings
    from .options import parse_numbers

    def numbers(texts: tuple[str, ...], option: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return parse_numbers(",".join(texts), option) if texts else default

    if arguments.bandwidth is not None and arguments.bandwidth <= 0:
        raise UsageError(f"--bandwidth {arguments.bandwidth:g}: GB/s above 0 expected")
    if arguments.random_tokens and arguments.prompt_file:
        raise UsageError("--random-tokens and --prompt-file exclude each other")
    return BenchSettings(
        prompts=numbers(arguments.prompts, "-p", (512,)),
        generate=numbers(arguments.generate, "-n", (128,)),
        depths=numbers(arguments.depths, "-d", (0,)),
        repetitions=arguments.repetitions,
        batch=arguments.batch,
        prefill_step_size=arguments.prefill_step_size,
        delay_s=arguments.delay,
        warmups=arguments.warmups,
        seed=arguments.seed,
        prompt="random" if arguments.random_tokens else "file" if arguments.prompt_file else "text",
    )


# --- measuring ---


def _measured(settings: BenchSettings, arguments: BenchArguments) -> dict[str, Any]:
    from ..bench.prompts import own_text, random_tokens, text_from

    file = arguments.prompt_file
    prompts = random_tokens() if arguments.random_tokens else text_from(file) if file else own_text()
    if arguments.endpoint:
        return _run(_served(arguments.endpoint, settings, prompts, arguments))
    if arguments.models or arguments.served or arguments.chat or arguments.api_key_env:
        raise UsageError("--model, --build, --chat and --api-key-env go with --endpoint")
    if not arguments.builds:
        raise UsageError("nothing to measure: give the folder of a build, or --endpoint URL --model NAME")
    return _local(settings, prompts, arguments)


def _local(settings: BenchSettings, prompts: Prompts, arguments: BenchArguments) -> dict[str, Any]:
    from ..bench.local import LocalModel, device, wired
    from ..bench.run import Bench
    from ..builds.read.build import read_build
    from ..records.head import describe_machine

    subjects = [LocalModel(read_build(build), prompts) for build in arguments.builds]
    on = device()
    room = on.pop("usable_bytes") or 0.7 * (describe_machine()["memory_bytes"] or 0)
    needed = _HEADROOM * sum(s.build.checkpoint.nbytes for s in subjects)
    resident = arguments.load == "once" or (arguments.load == "auto" and needed <= room) or len(subjects) == 1
    with wired():
        machine = {**on, **_bandwidth(arguments)}
        return _run(Bench(subjects, settings, resident=resident, machine=machine, prompt=prompts.describe()))


def _served(endpoint: str, settings: BenchSettings, prompts: Prompts, arguments: BenchArguments) -> Bench:
    from ..bench.run import Bench
    from ..bench.served import Endpoint, check_endpoint
    from ..endpoint.client import checked_model, parse_server

    check_endpoint(settings, arguments.builds, arguments.models, arguments.served)
    key = secret_from(arguments.api_key_env, "--api-key-env")
    server = parse_server(endpoint, arguments.timeout, key)
    models = [checked_model(model, "--model") for model in arguments.models]
    facts = [_facts(build) for build in arguments.served] or [{}] * len(models)
    subjects = [
        Endpoint(server, model, prompts, arguments.chat, f) for model, f in zip(models, facts, strict=True) if model
    ]
    where = {} if server.here else {"unknown": "the server's: another machine, of which this one knows nothing"}
    alone = len(subjects) == 1
    return Bench(subjects, settings, resident=alone, served=True, machine=where, prompt=prompts.describe())


def _facts(folder: str) -> dict[str, Any]:
    """What a record says of a build that a server has."""
    from ..builds.facts import describe_build
    from ..builds.read.build import read_build

    return describe_build(read_build(folder))


def _bandwidth(arguments: BenchArguments) -> dict[str, Any]:
    """Memory bandwidth of this machine, by the table or by the user; None where neither tells."""
    from ..bench.chips import find_chip
    from ..bench.conditions import gpu_cores
    from ..records.head import describe_machine

    if arguments.bandwidth is not None:
        return {"bandwidth_gbs": arguments.bandwidth, "bandwidth_source": "given with --bandwidth"}
    chip = find_chip(describe_machine()["chip"], gpu_cores())
    return {
        "bandwidth_gbs": chip.bandwidth_gbs if chip else None,
        "bandwidth_source": f"{chip.title}: {chip.source}" if chip else None,
    }


def _run(bench: Bench) -> dict[str, Any]:
    with progress_bar("run") as watch:
        bench.watch = watch
        return bench.run()


# --- records and predictions ---


def _pooled(arguments: BenchArguments) -> dict[str, Any]:
    from ..bench.record import pool, read_bench

    if arguments.builds or arguments.endpoint:
        raise UsageError("--from shows records; it measures nothing")
    paths = arguments.earlier
    return pool([read_bench(path) for path in paths], [path.name for path in paths])


def _show(record: dict[str, Any], arguments: BenchArguments) -> None:
    from ..records.files import record_text
    from ..report.bench import bench_markdown, bench_text
    from ..report.bench_tables import bench_csv, bench_jsonl, bench_sql

    writers: list[tuple[bool, Callable[[dict[str, Any]], str]]] = [
        (arguments.as_md, bench_markdown),
        (arguments.as_csv, bench_csv),
        (arguments.as_json, record_text),
        (arguments.as_jsonl, bench_jsonl),
        (arguments.as_sql, bench_sql),
    ]
    write = next((writer for wanted, writer in writers if wanted), bench_text)
    try:
        if arguments.output is not None:
            OutputFile("-o", arguments.output).write(f"{record_text(record)}\n")
    finally:  # what took hours is shown also where the disk takes no record
        echo(write(record))


def _predict(settings: BenchSettings, arguments: BenchArguments) -> None:
    from ..bench.predict import prediction
    from ..records.files import record_text
    from ..report.predict import prediction_text

    if arguments.endpoint:
        raise UsageError("--predict goes with builds or with SOURCE and --recipe")
    if arguments.as_md or arguments.as_csv or arguments.as_jsonl or arguments.as_sql:
        raise UsageError("--predict prints text, or --json")
    if not arguments.builds:
        raise UsageError("nothing to predict: give a build, or a SOURCE with --recipe")
    traffics = [t for target in arguments.builds for t in _traffics(target, arguments.recipes, max(settings.depths))]
    own = own_points(arguments.earlier)
    record = prediction(traffics, chips_named_by(arguments.chips, arguments.bandwidth, own), settings, own)
    if arguments.output is not None:
        OutputFile("-o", arguments.output).write(f"{record_text(record)}\n")
    echo(record_text(record) if arguments.as_json else prediction_text(record))


def _traffics(target: str, recipes: tuple[str, ...], depth: int) -> Iterator[Traffic]:
    """What a build, or plans of a source, move for a token. Raises UsageError where `depth` is beyond the model's."""
    from ..builds.facts import traffic_of_build, traffic_of_plan
    from ..layout.context import check_context

    if not recipes:
        from ..builds.read.build import read_build

        build = read_build(target)
        check_context(build.checkpoint.config, depth, target, "-d")
        yield traffic_of_build(build)
        return
    from ..layout.layout import read_layout
    from ..plan.plan import make_plan
    from ..plan.recipe.variation import load_variation, name_of
    from ..source.hub.open import open_source

    chosen = {name_of(text, recipe := load_variation(text)): recipe for text in recipes}
    source = open_source(target)
    layout = read_layout(source)
    check_context(layout.config, depth, source.name, "-d")
    for name, recipe in chosen.items():
        yield traffic_of_plan(make_plan(layout, recipe, source), replace(source, config=dict(layout.config)), name)
