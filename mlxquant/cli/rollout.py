"""`mlxquant rollout`: the configuration of a gateway for a rollout, its stages, and what the gateway's logs say."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..disk.outputs import OutputFile, check_outputs, record_of
from ..errors import MlxquantError, OutputError, UsageError
from ..words.text import filled, printable
from .options import json_option, output_option
from .printing import echo

if TYPE_CHECKING:
    from ..rollout.deployments import RolloutPlan, Side

_STAGES = ("mirror", "cohorts", "part", "all", "back")
_OURS = rb"# LiteLLM proxy configuration for a rollout, written by mlxquant rollout\."
# options that go with reading logs, and those that name the sides of a rollout
_READING = ("logs", "config", "confidence", "as_json")
_NAMING = tuple(f"{role}{what}" for role in ("baseline", "candidate") for what in ("", "_model", "_build"))


class _Share(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A share of requests, such as 5%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", str(value).strip())
        if number is None or float(number[1]) > 100:
            self.fail(f"{str(value)[:40]!r}: a share from 0% to 100% expected, such as 5%", param, ctx)
        return float(number[1])


@click.command()
@click.option("--baseline", metavar="URL[,…]", help="The servers of the model in use, as http://HOST:PORT/v1.")
@click.option("--candidate", metavar="URL[,…]", help="The servers of the model that is to replace it.")
@click.option("--model", metavar="NAME", help="The name that clients ask the gateway for.")
@click.option("--baseline-model", metavar="NAME", help="The model's name on the baseline's servers.  [--model's]")
@click.option("--candidate-model", metavar="NAME", help="The same for the candidate.")
@click.option("--baseline-key-env", metavar="VAR", help="The variable with the servers' key; only its name is written.")
@click.option("--candidate-key-env", metavar="VAR", help="The same for the candidate.")
@click.option("--baseline-build", metavar="FOLDER", help="The build that is served, to name its format and hashes.")
@click.option("--candidate-build", metavar="FOLDER", help="The same for the candidate.")
@click.option("--mirror", type=_Share(), default=5.0, metavar="SHARE",
              help="Share of requests that the candidate answers unseen.  [5%]")  # fmt: skip
@click.option("--serve", type=_Share(), default=10.0, metavar="SHARE",
              help="Share of requests that it serves in stage part.  [10%]")  # fmt: skip
@click.option("--cohort", "cohorts", multiple=True, metavar="TAG=baseline|candidate",
              help="Who serves requests with this tag, from stage cohorts on; again for several.")  # fmt: skip
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds for a server's whole answer.")
@click.option("--stage", type=click.Choice(_STAGES), help="Write that stage; alone with -o, change a file to it.")
@click.option("--status", type=click.Path(path_type=Path), metavar="FILE",
              help="Say which stage a configuration is in, and what was edited in it.")  # fmt: skip
@click.option("--logs", multiple=True, type=click.Path(path_type=Path), metavar="LOGS",
              help="Read LiteLLM's payloads: a file or a folder; again for several.")  # fmt: skip
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE",
              help="With --logs: the configuration that was in force, which names both builds.")  # fmt: skip
@click.option("--confidence", type=click.FloatRange(0.5, 0.9999), default=0.95, show_default=True,
              help="With --logs: confidence level of every interval.")  # fmt: skip
@json_option
@output_option("The configuration, and each stage beside it as FILE.STAGE.yaml; with --logs, the record.")
def command(**options: Any) -> None:
    """Roll a candidate out behind LiteLLM's proxy: mirror, cohorts, part, all, and back.

    Writes a configuration whose last line names the stage. The candidate first answers a mirrored share of requests
    that nobody waits for, then serves cohorts, a part, all. If it fails, the baseline answers. Keys are not written.

    \b
    mlxquant rollout --baseline http://a/v1 --candidate http://b/v1 --model qwen \\
        --cohort batch=candidate --candidate-build build -o litellm.yaml
    mlxquant rollout --status litellm.yaml
    mlxquant rollout --stage back -o litellm.yaml
    mlxquant rollout --logs logs.ndjson --config litellm.yaml -o rollout.json
    """
    if options["status"] is not None:
        _refuse_others(options, "--status", ("status",))
        _show_status(options["status"])
    elif options["baseline"] is None and options["candidate"] is None and options["stage"] is not None:
        _refuse_others(options, "--stage without --baseline and --candidate", ("stage", "output"))
        _change_stage(_output(options), options["stage"])
    elif options["logs"]:
        _read_logs(options)
    else:
        _refuse_others(options, "writing a configuration; --logs reads logs", (), only=_READING)
        _write(options)


def _output(options: Mapping[str, Any]) -> Path:
    if options["output"] is None:
        raise UsageError("-o: the configuration's file is missing, such as -o litellm.yaml")
    return Path(options["output"])


def _refuse_others(options: Mapping[str, Any], what: str, used: Sequence[str], only: Sequence[str] = ()) -> None:
    """Raise UsageError for an option that was given and would do nothing; with `only`, for those alone."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE or name in used:
            continue
        if not only or name in only:
            raise UsageError(f"{parameter.opts[0]} does not go with {what}; leave it out")


def _plan(options: Mapping[str, Any]) -> RolloutPlan:
    from ..rollout.deployments import RolloutPlan, check_plan

    for needed in ("baseline", "candidate", "model"):
        if options[needed] is None:
            raise UsageError(
                f"--{needed} is missing; a configuration needs --baseline URL, --candidate URL and --model NAME"
            )
    cohorts = []
    for cohort in options["cohorts"]:
        tag, sign, role = cohort.rpartition("=")
        if not sign:
            raise UsageError(f"--cohort {cohort[:80]!r}: TAG=baseline or TAG=candidate expected")
        cohorts.append((tag, role))
    plan = RolloutPlan(
        name=options["model"],
        baseline=_side(options, "baseline"),
        candidate=_side(options, "candidate"),
        mirror=options["mirror"],
        serve=options["serve"],
        cohorts=tuple(cohorts),
        timeout_s=options["timeout"],
    )
    check_plan(plan)
    return plan


def _side(options: Mapping[str, Any], role: str) -> Side:
    """A side as it was named; a build's headers are read for what identifies it."""
    from ..rollout.deployments import Side

    variant, identity = role, dict[str, str]()
    if options[f"{role}_build"] is not None:
        from ..builds.facts import describe_build
        from ..builds.read.build import read_build

        build = read_build(options[f"{role}_build"])
        facts, variant = describe_build(build), printable(build.name)
        recipe = facts["recipe"] or {}
        known = {
            "format": facts["format"], "recipe": recipe.get("name"), "recipe_sha256": recipe.get("sha256"),
            "manifest_sha256": facts["manifest_sha256"], "config_sha256": facts["config_sha256"],
        }  # fmt: skip
        identity = {key: printable(value) for key, value in known.items() if value}
    urls = tuple(url.strip() for url in options[role].split(",")) if options[role] else ()
    model = options["model"] if options[f"{role}_model"] is None else options[f"{role}_model"]
    return Side(urls, model, options[f"{role}_key_env"], variant, identity)


def _write(options: Mapping[str, Any]) -> None:
    from ..rollout.configuration import configuration_text
    from ..rollout.deployments import doubtful_addresses, next_stage
    from ..rollout.status import read_status

    plan, path, stage_in_force = _plan(options), _output(options), options["stage"] or _STAGES[0]
    outputs = {None: OutputFile("-o", path, _OURS)}
    outputs |= {stage: OutputFile("-o", _beside(path, stage), _OURS) for stage in _STAGES}  # type: ignore[misc]
    inputs = [(f"--{role}-build", options[f"{role}_build"]) for role in ("baseline", "candidate")]
    check_outputs(list(outputs.values()), [(name, Path(folder)) for name, folder in inputs if folder])
    before = None
    for stage, output in outputs.items():
        if not output.path.exists() or not output.path.stat().st_size:
            continue
        status = read_status(output.path)
        before = status.stage if stage is None else before
        if status.edits:
            raise OutputError(
                f"{output.path}: was edited after it was written (--status says where), and is not replaced; move it"
            )
    for stage, output in outputs.items():
        output.write(configuration_text(plan, stage or stage_in_force))
    echo(f"{path}: stage {f'{before} -> ' if before not in (None, stage_in_force) else ''}{stage_in_force}")
    echo(f"stages:     {_beside(path, '{' + ','.join(_STAGES) + '}')}")
    keys = sorted({side.key_env for side in (plan.baseline, plan.candidate) if side.key_env})
    echo(filled("variables:", ", ".join(["LITELLM_MASTER_KEY for clients", "GENERIC_LOGGER_ENDPOINT for logs", *keys])))
    echo(f"run it:     litellm --config {path} --reload")
    if (after := next_stage(plan, stage_in_force)) is not None:
        echo(f"next stage: mlxquant rollout --stage {after} -o {path}")
    if stage_in_force != "back":
        echo(f"roll back:  mlxquant rollout --stage back -o {path}")
    for url in doubtful_addresses(plan):
        echo(f"{url}: has no path; most servers answer below /v1 only (mlx_lm.server does without)", err=True)


def _beside(path: Path, stage: str) -> Path:
    """The file of a stage: ``litellm.part.yaml`` beside litellm.yaml."""
    return path.with_name(f"{path.stem}.{stage}{path.suffix or '.yaml'}")


def _change_stage(path: Path, stage: str) -> None:
    from ..rollout.status import read_status, with_stage

    status = read_status(path)
    if status.stage not in (None, stage) and Path(path.stem).suffix == f".{status.stage}":
        raise UsageError(
            f"-o {path}: is the file of stage {status.stage}, to be there when it is needed; change the file that the"
            " proxy runs"
        )
    OutputFile("-o", path, rb"").check()
    text = with_stage(status, stage, str(path))
    OutputFile("-o", path, rb"").write(text)
    echo(f"{path}: stage {status.stage or 'unknown'} -> {stage}")
    echo("litellm --reload takes it up by itself; without it, restart the proxy", err=True)


def _show_status(path: Path) -> None:
    """Print the stage and what was edited; edits, or no stage, end with exit code 3, as faults that checks find do."""
    from ..report.rollout import status_text
    from ..rollout.status import read_status

    status = read_status(path)
    echo(status_text(str(path), status.plan.as_dict(), status.stage, status.edits))
    if status.edits or status.stage is None:
        sys.exit(MlxquantError.exit_code)


def _read_logs(options: Mapping[str, Any]) -> None:
    """Print, and write, what logs say of both sides."""
    from ..records.files import record_text
    from ..report.rollout import rollout_text
    from ..rollout.record import read_rollout
    from ..rollout.status import read_status

    used = (*_READING, "output", *(_NAMING if options["config"] is None else ()))
    _refuse_others(
        options, f"--logs{'' if options['config'] is None else ' and --config, which names both sides'}", used
    )
    output = None if options["output"] is None else OutputFile("-o", options["output"], record_of("rollout"))
    if output is not None:
        inputs = [("--logs", path) for path in options["logs"] if path.is_file()]
        inputs += [("--config", options["config"])] if options["config"] is not None else []
        check_outputs([output], inputs)
    if options["config"] is not None:
        plan = read_status(options["config"]).plan
        sides = plan.baseline, plan.candidate
    else:
        sides = _side({**options, "model": None}, "baseline"), _side({**options, "model": None}, "candidate")
    record = read_rollout(options["logs"], *sides, confidence=options["confidence"])
    text = record_text(record)
    if output is not None:
        output.write(f"{text}\n")
    echo(text if options["as_json"] else rollout_text(record))
