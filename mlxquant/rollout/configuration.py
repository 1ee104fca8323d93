"""A rollout as the configuration of LiteLLM's proxy: YAML with every stage in it, and one line that says which is on.

The deployments of each stage stand under a YAML anchor, in a key that LiteLLM does not know and so ignores; the last
line, `model_list: *mirror`, takes one of them. So a stage is one line, a rollback too, and `diff` of two stages shows
it alone. A comment at the top holds the plan as JSON, from which the whole file can be written again and compared.

Texts are written as JSON strings, which are YAML's. No key is ever written: `os.environ/NAME` has LiteLLM read the
variable. Measured with LiteLLM 1.108, and why the settings are as they are:

- A failed request is not repeated in its group (`num_retries: 0`) but goes to the fallback at once.
- A mirror is not repeated (`max_retries: 0`): each attempt at a dead server costs the proxy some 40 ms of its one loop.
- Payloads are logged by `callbacks: ["generic_api"]`, to the address in GENERIC_LOGGER_ENDPOINT; a callback of another
  name with an endpoint in the file is accepted under `success_callback`, and never called.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from ..words.text import json_escaped
from .deployments import MIRROR, STAGES, Deployment, RolloutPlan, fallback_groups, read_id, stages

SCHEMA = "mlxquant.rollout_plan/1"
HEADER = f"# {SCHEMA} "
STAGE_KEY = "model_list"
_PROVIDER = "openai/"  # any server that speaks OpenAI's API
_NO_KEY = "not-needed"  # LiteLLM asks for a key where the server has none
_ALLOWED_FAILS, _COOLDOWN_S, _MAX_FALLBACKS = 3, 30, 5


def stage_line(stage: str) -> str:
    """The line that says which stage is in force."""
    return f"{STAGE_KEY}: *{stage}"


def configuration_text(plan: RolloutPlan, stage: str) -> str:
    """The whole file at a stage."""
    lines = [
        "# LiteLLM proxy configuration for a rollout, written by mlxquant rollout. Run it with",
        "#   litellm --config FILE --reload",
        f"# The last line says which stage is in force: *{', *'.join(STAGES)}. It alone changes.",
        "# Environment variables: LITELLM_MASTER_KEY, a key that clients send; LiteLLM does not start without it.",
        "# GENERIC_LOGGER_ENDPOINT, the address that logs are posted to; without it there are none, and each request",
        "# leaves an error in LiteLLM's output.",
        HEADER + json_escaped(json.dumps(plan.as_dict(), ensure_ascii=False, sort_keys=True)),
        "",
        *_settings(plan),
        "",
        "rollout_stages:",
    ]
    for name, deployments in stages(plan).items():
        lines += [f"  {name}: &{name}", *(line for entry in deployments for line in _entry(entry, name, plan))]
    return "\n".join([*lines, "", stage_line(stage), ""])


def _settings(plan: RolloutPlan) -> Iterator[str]:
    yield "router_settings:"
    yield "  enable_tag_filtering: true"
    yield "  fallbacks:"
    yield f"    - {_text(plan.group())}: {_texts(fallback_groups(plan))}"
    yield f"  max_fallbacks: {max(_MAX_FALLBACKS, len(fallback_groups(plan)))}"
    yield "  num_retries: 0"
    yield f"  allowed_fails: {_ALLOWED_FAILS}"
    yield f"  cooldown_time: {_COOLDOWN_S}"
    yield "litellm_settings:"
    yield '  callbacks: ["generic_api"]'


def _entry(entry: Deployment, stage: str, plan: RolloutPlan) -> Iterator[str]:
    side = entry.side
    yield f"    - model_name: {_text(entry.group)}"
    yield "      litellm_params:"
    yield f"        model: {_text(f'{_PROVIDER}{side.model}')}"
    yield f"        api_base: {_text(entry.url)}"
    yield f"        api_key: {_text(f'os.environ/{side.key_env}' if side.key_env else _NO_KEY)}"
    yield f"        timeout: {plan.timeout_s:g}"
    yield f"        tags: {_texts(entry.tags)}"
    if entry.weight is not None:
        yield f"        weight: {entry.weight:g}"
    if entry.silent is not None:
        yield f"        silent_model: {_text(entry.silent)}"
    identity = read_id(entry.id)
    assert identity is not None
    if identity.purpose == MIRROR:
        yield "        max_retries: 0"
    yield "      model_info:"
    yield f"        id: {_text(entry.id)}"
    yield f"        model_variant: {_text(side.variant)}"
    yield f"        rollout_role: {_text(identity.role)}"
    yield f"        rollout_stage: {_text(stage)}"
    if not entry.cools:  # in `litellm_params` it would not hold for /v1/responses
        yield "        cooldown_time: 0"
    for key, name in _INFO.items():
        if key in side.build:
            yield f"        {name}: {_text(side.build[key])}"


# what is known of a build -> its key in `model_info`
_INFO = {
    "format": "quantization_format", "recipe": "recipe", "recipe_sha256": "recipe_sha256",
    "manifest_sha256": "manifest_sha256",
}  # fmt: skip


def _text(value: Any) -> str:
    """A text as JSON, which YAML reads as the same text."""
    return json_escaped(json.dumps(value, ensure_ascii=False))


def _texts(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
