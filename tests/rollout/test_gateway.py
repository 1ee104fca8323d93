"""A rollout from end to end: LiteLLM's proxy, two mlx_lm.servers with the store model, a client, a dead candidate."""

from __future__ import annotations

import json
import statistics
import time

import pytest
from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.evals.store.model import write_store_moe
from mlxquant.plan.recipe.recipe import load_recipe
from tests.endpoint.servers import mlx_lm_server
from tests.rollout.gateway import TOOLS, collector, gateway, hanging, store_requests
from tests.support.builds import build
from tests.support.environments import environment

pytestmark = [pytest.mark.slow, pytest.mark.environments]


def run(*words: object):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code in (0, 4), result.output
    return result


def content(message):
    """What a user gets of a message: text and calls, without the ids that a server makes up."""
    calls = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
    return message.get("content") or "", calls


def test_a_candidate_is_mirrored_serves_a_cohort_dies_and_is_rolled_back(tmp_path, tmp_path_factory):
    python = environment(tmp_path_factory, "litellm[proxy]")
    write_store_moe(tmp_path / "source")
    build(tmp_path / "source", tmp_path / "full", "none", dtype="float32", audit=False)
    two_bits = load_recipe("uniform-8bit", bits=2, group_size=64)
    build(tmp_path / "source", tmp_path / "2-bit", two_bits, dtype="float32", audit=False)
    config, logs = tmp_path / "litellm.yaml", tmp_path / "logs.ndjson"
    requests = store_requests(tasks=8, calls=5)
    with collector(logs) as log_url, mlx_lm_server(tmp_path / "full") as full:
        with mlx_lm_server(tmp_path / "2-bit") as two:
            run("rollout", "--model", "store", "--baseline", full, "--candidate", two, "--baseline-model",
                "default_model", "--candidate-model", "default_model", "--baseline-build", tmp_path / "full",
                "--candidate-build", tmp_path / "2-bit", "--mirror", "50%", "--cohort", "batch=candidate",
                "--timeout", "60", "-o", config)  # fmt: skip
            proxy_running = gateway(python, config, log_url)
            proxy = proxy_running.__enter__()
            try:
                answers = [proxy.ask(messages, tools=TOOLS) for messages in requests]
                assert all(name.startswith("baseline-1") and not fell_back for _, name, fell_back, _ in answers)
                mirrored = [".mirrored" in name for _, name, _, _ in answers]
                assert 0 < sum(mirrored) < len(mirrored)
                run("rollout", "--stage", "cohorts", "-o", config)
                proxy.wait_for("candidate-1.cohort", "batch")
                again = [proxy.ask(messages, "batch", tools=TOOLS) for messages in requests[:12]]
                assert all(name.startswith("candidate-1.cohort") for _, name, _, _ in again)
                assert [content(a[0]) for a in again] != [content(a[0]) for a in answers[:12]], (
                    "2 bits are another model"
                )
            except BaseException:
                proxy_running.__exit__(None, None, None)
                raise
        try:
            # the candidate is dead: its cohort gets the baseline's answers, as everybody did
            fallen = [proxy.ask(messages, "batch", tools=TOOLS) for messages in requests[:12]]
            assert all(fell_back for _, _, fell_back, _ in fallen)
            assert [content(a[0]) for a in fallen] == [content(a[0]) for a in answers[:12]], "no request is lost"
            with hanging(int(two.rsplit(":", 1)[1].removesuffix("/v1"))):
                hung = [proxy.ask(messages, tools=TOOLS) for messages in requests]
            assert [content(a[0]) for a in hung] == [content(a[0]) for a in answers], "a mirror changes no answer"
            seconds = [[a[3] for a in hung if (".mirrored" in a[1]) == is_mirrored] for is_mirrored in (False, True)]
            plain, beside = map(statistics.median, seconds)
            print(
                f"median seconds while the mirror hangs: not mirrored {plain:.3f}, mirrored {beside:.3f},"
                f" at most {max(map(max, seconds)):.3f}"
            )
            assert beside < 1.5 * plain + 0.2, "a mirror that hangs delays nobody"
            run("rollout", "--stage", "back", "-o", config)
            proxy.wait_for("baseline-1@", "batch")
            back = [proxy.ask(messages, "batch", tools=TOOLS) for messages in requests[:6]]
            assert all(name.startswith("baseline-1@") and not fell_back for _, name, fell_back, _ in back)
            time.sleep(3)
        finally:
            proxy_running.__exit__(None, None, None)
    record = json.loads(run("rollout", "--logs", logs, "--config", config, "--json").stdout)
    counts, (candidate,) = record["counts"], record["candidates"]
    assert counts["pairs"] == counts["mirrors"] > 0 and counts["answered_by_fallback"] >= len(fallen)
    assert candidate["recipe"]["name"] == "uniform-8bit" and candidate["format"].startswith("2-bit")
    figures = {m["metric"]: m["estimate"] for m in candidate["measurements"] if "slice" not in m}
    assert figures["same_arguments"] < 0.9 and figures["infrastructure_errors"] > 0
