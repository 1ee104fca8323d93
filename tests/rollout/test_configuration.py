"""The configuration of a rollout: what PyYAML, and so LiteLLM, reads in it, and which stage `status` says it is in."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxquant.cli import main
from mlxquant.errors import RecordError, UsageError
from mlxquant.rollout.configuration import configuration_text
from mlxquant.rollout.deployments import STAGES, check_plan, read_id
from mlxquant.rollout.status import status_of, with_stage
from tests.rollout.plans import plan, plans, side

yaml = pytest.importorskip("yaml")
WORDS = ("rollout", "--baseline", "http://a/v1", "--candidate", "http://b/v1", "--model", "m")


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def loaded(text: str):
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@settings(max_examples=8)
@given(plans(), st.sampled_from(STAGES))
def test_status_names_the_stage_of_every_plan_and_finds_no_edit(rollout, stage):
    check_plan(rollout)
    status = status_of(configuration_text(rollout, stage), "f")
    assert (status.stage, status.edits, status.plan) == (stage, (), rollout)


@settings(max_examples=8)
@given(plans(), st.sampled_from(STAGES), st.sampled_from(STAGES))
def test_a_stage_is_one_line_and_changing_to_it_gives_the_file_of_that_stage(rollout, one, other):
    first, second = configuration_text(rollout, one), configuration_text(rollout, other)
    differing = [a for a, b in zip(first.splitlines(), second.splitlines(), strict=True) if a != b]
    assert len(differing) == (one != other)
    assert with_stage(status_of(first, "f"), other, "f") == second


@settings(max_examples=8)
@given(plans(), st.sampled_from(STAGES))
def test_yaml_reads_what_the_plan_says(rollout, stage):
    table = loaded(configuration_text(rollout, stage))
    entries = table["model_list"]
    ids = [entry["model_info"]["id"] for entry in entries]
    assert len(set(ids)) == len(ids) and all(map(read_id, ids))
    for entry in entries:
        identity = read_id(entry["model_info"]["id"])
        assert identity is not None
        served = rollout.baseline if identity.role == "baseline" else rollout.candidate
        assert entry["litellm_params"]["api_base"] in served.urls
        assert entry["litellm_params"]["model"] == f"openai/{served.model}"
        assert entry["model_info"]["model_variant"] == served.variant
    (fallbacks,) = table["router_settings"]["fallbacks"]
    shared, *alone = (
        [entry["litellm_params"]["api_base"] for entry in entries if entry["model_name"] == group]
        for group in fallbacks[rollout.name]
    )
    servers = list(rollout.baseline.urls)
    assert shared == servers, "what a dead candidate leaves is shared"
    assert alone == ([[url] for url in servers] if len(servers) > 1 else []), "and then each server is asked"
    assert table["router_settings"]["max_fallbacks"] >= len(fallbacks[rollout.name])


def weights(stage, *tags, **changes):
    """What LiteLLM would draw from for a request with these tags: id -> weight."""
    entries = [e for e in loaded(configuration_text(plan(**changes), stage))["model_list"] if e["model_name"] == "qwen"]
    params = {e["model_info"]["id"]: e["litellm_params"] for e in entries}
    chosen = [name for name, p in params.items() if set(p["tags"]) & set(tags)]
    return {
        name: p["weight"] for name, p in params.items()
        if name in chosen or (not chosen and "default" in p["tags"])
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "tags", "expected"),
    [
        ("mirror", (), {"baseline-1": 95, "baseline-1.mirrored": 5}),
        ("mirror", ("batch",), {"baseline-1": 95, "baseline-1.mirrored": 5}),
        ("cohorts", (), {"baseline-1": 95, "baseline-1.mirrored": 5}),
        ("cohorts", ("batch",), {"candidate-1.cohort": 0}),
        ("cohorts", ("batch", "vip"), {"baseline-1": 95, "baseline-1.mirrored": 5, "candidate-1.cohort": 0}),
        ("part", (), {"baseline-1": 85, "baseline-1.mirrored": 5, "candidate-1": 10}),
        ("part", ("vip",), {"baseline-1": 85, "baseline-1.mirrored": 5}),
        ("all", (), {"candidate-1": 0}),
        ("all", ("vip",), {"baseline-1.cohort": 1}),
        ("back", ("batch",), {"baseline-1": 1}),
    ],
)
def test_each_stage_serves_whom_it_should(stage, tags, expected):
    assert weights(stage, *tags) == expected


def test_only_mirrored_deployments_have_a_silent_model_and_back_has_no_candidate():
    for stage in STAGES:
        entries = loaded(configuration_text(plan(), stage))["model_list"]
        silent = {e["model_info"]["id"] for e in entries if "silent_model" in e["litellm_params"]}
        assert silent == ({"baseline-1.mirrored"} if stage in ("mirror", "cohorts", "part") else set())
        groups = {e["model_name"] for e in entries}
        assert all(
            e["litellm_params"]["silent_model"] in groups for e in entries if "silent_model" in e["litellm_params"]
        )
    assert all(e["model_info"]["id"].startswith("baseline-") for e in entries)


def test_shares_are_divided_among_servers():
    two = side("candidate", "http://b/v1", "http://c/v1")
    assert weights("part", candidate=two) == {
        "baseline-1": 85, "baseline-1.mirrored": 5, "candidate-1": 5, "candidate-2": 5
    }  # fmt: skip


def test_neither_the_only_server_of_the_baseline_nor_a_fallback_is_ever_left_alone():
    for urls in (("http://a/v1",), ("http://a/v1", "http://d/v1")):
        for entry in loaded(configuration_text(plan(baseline=side("baseline", *urls)), "part"))["model_list"]:
            identity = read_id(entry["model_info"]["id"])
            assert identity is not None
            always = identity.role == "baseline" and (identity.purpose in ("fallback", "last") or len(urls) == 1)
            assert (entry["model_info"].get("cooldown_time") == 0) == always


def test_a_key_is_written_as_the_name_of_its_variable_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDIDATE_KEY", "sk-very-secret-1234567890")
    result = run(*WORDS, "--candidate-key-env", "CANDIDATE_KEY", "-o", tmp_path / "l.yaml")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "l.yaml").read_text()
    assert "very-secret" not in text and '"os.environ/CANDIDATE_KEY"' in text
    variables = next(line for line in result.stdout.splitlines() if line.startswith("variables:"))
    assert "LITELLM_MASTER_KEY" in variables, "without it LiteLLM does not start"
    assert (
        "CANDIDATE_KEY" in result.stdout and max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 80
    )
    refused = run(*WORDS, "--candidate-key-env", "sk-very-secret-1234567890", "-o", tmp_path / "m.yaml")
    assert refused.exit_code == 2 and "very-secret" not in refused.output and not (tmp_path / "m.yaml").exists()


def test_the_stages_are_written_as_files_and_one_command_rolls_back(tmp_path):
    path = tmp_path / "litellm.yaml"
    assert run(*WORDS, "-o", path).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["litellm.yaml", *(f"litellm.{stage}.yaml" for stage in STAGES)]
    )
    for stage in STAGES:
        assert f": stage {stage}\n" in run("rollout", "--status", tmp_path / f"litellm.{stage}.yaml").stdout
    kept = run("rollout", "--stage", "all", "-o", tmp_path / "litellm.back.yaml")
    assert kept.exit_code == 2 and "the file of stage back" in kept.stderr
    assert run("rollout", "--stage", "back", "-o", path).exit_code == 0
    assert path.read_bytes() == (tmp_path / "litellm.back.yaml").read_bytes()


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (("--cohort", "a=candidate"), "cohorts"), ((), "part"), (("--serve", "0%"), "all"),
        (("--stage", "part"), "all"), (("--stage", "all"), None), (("--stage", "back"), None),
    ],
)  # fmt: skip
def test_the_next_stage_is_one_in_which_something_changes(tmp_path, words, after):
    lines = run(*WORDS, *words, "-o", tmp_path / "l.yaml").stdout.splitlines()
    named = [line.split()[5] for line in lines if line.startswith("next stage:")]
    assert named == ([] if after is None else [after])
    assert any(line.startswith("roll back:") for line in lines) == ("back" not in words)


def test_a_plan_written_anew_says_that_the_stage_changes_and_which_address_has_no_path(tmp_path):
    path = tmp_path / "l.yaml"
    run(*WORDS, "--stage", "all", "-o", path)
    again = run(*WORDS, "--candidate", "http://c:8080", "-o", path)
    assert again.stdout.startswith(f"{path}: stage all -> mirror\n")
    assert again.stderr.startswith("http://c:8080: has no path") and again.stderr.count("\n") == 1


def test_an_edit_is_shown_survives_a_change_of_stage_and_is_not_written_over(tmp_path):
    path = tmp_path / "litellm.yaml"
    run(*WORDS, "-o", path)
    path.write_text(path.read_text().replace("cooldown_time: 30", "cooldown_time: 5\n  redis_host: r"))
    status = run("rollout", "--status", path)
    assert status.exit_code == 3
    assert [line.strip() for line in status.stdout.splitlines()[-3:]] == [
        "-   cooldown_time: 30", "+   cooldown_time: 5", "+   redis_host: r"
    ]  # fmt: skip
    edited = path.read_bytes()
    again = run(*WORDS, "-o", path)
    assert again.exit_code == 3 and "edited" in again.stderr and path.read_bytes() == edited
    assert run("rollout", "--stage", "all", "-o", path).exit_code == 0
    assert path.read_bytes() == edited.replace(b"*mirror\n", b"*all\n")


def test_a_file_without_a_stage_is_a_fault_and_one_with_windows_line_ends_is_none(tmp_path):
    path, ended = tmp_path / "l.yaml", tmp_path / "ended.yaml"
    text = configuration_text(plan(), "all")
    path.write_text(text.replace("model_list: *all\n", ""))
    assert run("rollout", "--status", path).exit_code == 3
    ended.write_bytes(text.replace("\n", "\r\n").encode())
    assert run("rollout", "--status", ended).stdout.startswith(f"{ended}: stage all\n")
    assert run("rollout", "--stage", "back", "-o", ended).exit_code == 0
    assert ended.read_bytes() == configuration_text(plan(), "back").replace("\n", "\r\n").encode()


def test_a_file_that_is_not_ours_is_neither_read_nor_replaced(tmp_path):
    path = tmp_path / "litellm.yaml"
    path.write_text("model_list: []\n")
    for words in ((*WORDS, "-o", path), ("rollout", "--stage", "back", "-o", path), ("rollout", "--status", path)):
        result = run(*words)
        assert result.exit_code == 3 and result.stderr.count("\n") == 1, result.output
    assert path.read_text() == "model_list: []\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["litellm.yaml"]


@pytest.mark.parametrize(
    "words",
    [
        ("--cohort", "batch"), ("--cohort", "batch=both"), ("--cohort", "default=candidate"),
        ("--cohort", "&x=baseline"),
        ("--cohort", "a=candidate", "--cohort", "a=baseline"), ("--mirror", "5"), ("--mirror", "101%"),
        ("--mirror", "60%", "--serve", "50%"), ("--candidate", "http://a/v1"), ("--candidate", "b:8080"),
        ("--candidate", "http://b/v1,http://b/v1/"), ("--candidate", "http://me:pass@b/v1"), ("--timeout", "0"),
        ("--candidate", "http://b/v1/chat/completions"),
        ("--model", "two words"), ("--candidate-model", ""), ("--stage", "most"), ("--status", "x"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_carried_out_is_one_line_and_writes_nothing(tmp_path, words):
    result = run(*WORDS, *words, "-o", tmp_path / "l.yaml")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and "pass@" not in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["name", "baseline", "cohorts", "mirror", "timeout_s"])
@pytest.mark.parametrize("value", [None, True, [], {}, [[]], ["a"], "\n", -1, {"urls": [1]}, 10**30])
def test_a_header_that_somebody_changed_is_one_error(field, value):
    text = configuration_text(plan(), "mirror")
    header = next(line for line in text.splitlines() if line.startswith("# mlxquant."))
    mark, _, table = header.partition(" {")
    changed = json.dumps(json.loads("{" + table) | {field: value})
    try:
        status_of(text.replace(header, f"{mark} {changed}"), "f")
    except RecordError as error:
        assert "\n" not in str(error)
    else:
        assert (field, value) == ("cohorts", [])


def test_a_stage_that_is_gone_is_not_taken():
    text = configuration_text(plan(), "mirror").replace("  back: &back", "  back: &other")
    with pytest.raises(RecordError, match="back is gone"):
        with_stage(status_of(text, "f"), "back", "f")
    with pytest.raises(UsageError):
        with_stage(status_of(text, "f"), "most", "f")
    two = configuration_text(plan(), "mirror") + "model_list: *all\n"
    assert status_of(two, "f").stage is None
    with pytest.raises(RecordError, match="2 found"):
        with_stage(status_of(two, "f"), "all", "f")
