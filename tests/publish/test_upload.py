"""Putting a build on the Hub: the real client against a Hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.manifest import read_manifest
from mlxquant.cli import main
from mlxquant.errors import BuildError, RecordError, UsageError
from mlxquant.publish import upload
from mlxquant.publish.upload import prepare
from mlxquant.records.files import read_record
from mlxquant.report.card import Said, card
from mlxquant.validate import read_evidence, validate
from tests.source.hub.hub_server import HubServer, use_hub
from tests.support.builds import build, contents
from tests.validate.validate_records import compare, measure, write

TOKEN = "hf_SECRETxSECRETxSECRET"


@pytest.fixture(scope="module")
def own_build(tmp_path_factory: pytest.TempPathFactory, tiny_qwen: Path) -> Path:
    out = tmp_path_factory.mktemp("made") / "build"
    build(tiny_qwen, out)
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        use_hub(server, monkeypatch, tmp_path / "hub")
        server.uploads = tmp_path / "uploads"
        server.tokens.add(TOKEN)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["upload", *map(str, words)])


# --- what goes up ---


def test_what_is_uploaded_is_the_build_and_its_card(hub, own_build):
    before = contents(own_build)
    done = run(own_build, "me/build")
    assert done.exit_code == 0, done.output
    there = contents(hub.uploads / "me/build")
    assert there.pop("README.md").decode() == prepare(own_build, "me/build").card
    assert there == before
    assert contents(own_build) == before, "the build stays as it is"
    assert TOKEN not in done.output


def test_a_new_repository_is_private_unless_asked_otherwise(hub, own_build):
    run(own_build, "me/quiet")
    run(own_build, "me/loud", "--public")
    assert hub.repositories["me/quiet"].private
    assert not hub.repositories["me/loud"].private


def test_a_public_repository_gets_nothing_without_public(hub, own_build, tmp_path):
    (tmp_path / "there").mkdir()
    hub.add("me/there", tmp_path / "there")
    done = run(own_build, "me/there")
    assert done.exit_code == 3
    assert "is public; pass --public" in done.output
    assert list((tmp_path / "there").iterdir()) == []


def test_an_upload_that_broke_off_goes_on_with_the_same_command(hub, own_build):
    from huggingface_hub import HfApi

    if hasattr(HfApi, "upload_large_folder"):
        pytest.skip("before 2.0 the client itself tries again until it works")
    hub.fail("/commit/", status=500, times=1)
    done = run(own_build, "me/build")
    assert done.exit_code == 3
    assert "(500)" in done.output
    hub.requests.clear()
    assert run(own_build, "me/build").exit_code == 0
    assert not [r for r in hub.requests if r.method == "PUT"], "the shards are there"


def test_bytes_that_arrive_otherwise_are_told(hub, own_build, monkeypatch):
    real = upload._send

    def spoil(repository: str, folder: Path) -> None:
        real(repository, folder)
        (hub.repositories["me/build"].folder / "config.json").write_text("{}")

    monkeypatch.setattr(upload, "_send", spoil)
    done = run(own_build, "me/build")
    assert done.exit_code == 3
    assert "config.json: " in done.output
    assert "run the same command again" in done.output


def test_other_files_of_the_repository_are_told(hub, own_build, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/model-00009-of-00009.safetensors").write_text("old")
    hub.add("me/there", tmp_path / "there", private=True)
    done = run(own_build, "me/there")
    assert done.exit_code == 0, done.output
    assert "other files too: model-00009-of-00009.safetensors" in done.output


def test_nobody_who_is_not_logged_in_uploads(hub, own_build, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    done = run(own_build, "me/build")
    assert done.exit_code == 3
    assert "not logged in; hf auth login" in done.output
    assert hub.requests == []


def test_a_token_that_is_refused_is_told_and_not_shown(hub, own_build, monkeypatch):
    hub.tokens.clear()
    done = run(own_build, "me/build")
    assert "refuses the token" in done.output
    assert TOKEN not in done.output


# --- what does not ---


@pytest.mark.skipif(huggingface_hub.__version__.startswith("1."), reason="it sleeps between tries, 60 s at most")
def test_a_wait_of_years_is_a_no(hub, own_build):
    hub.fail("/api/repos/create", status=429, headers={"Retry-After": "99999999"}, times=99)
    done = run(own_build, "me/build")
    assert done.exit_code == 3
    assert "(429); try again in 1,157 days" in done.output


@pytest.mark.parametrize(
    ("fault", "message"), [({"endless": True}, "answers without end"), ({"gzip": True}, "compressed (gzip), unasked")]
)
def test_an_answer_is_bounded(hub, own_build, fault, message):
    hub.fail("/api/repos/create", times=99, **fault)
    done = run(own_build, "me/build")
    assert done.exit_code == 3
    assert message in done.output


def command(hub: HubServer, own_build: Path, tmp_path: Path, endpoint: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-c", "from mlxquant.cli import main; main()", "upload", str(own_build), "me/build"]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_signal_ends_an_upload_whatever_its_threads_wait_for(hub, own_build, tmp_path):
    hub.fail("^/lfs/", stall=60, times=99)
    with command(hub, own_build, tmp_path, hub.url) as run:
        until = time.monotonic() + 60
        while not any(r.path.startswith("/lfs/") for r in hub.requests) and time.monotonic() < until:
            time.sleep(0.05)
        run.terminate()
        assert run.wait(10) == 130
        assert run.stderr is not None
        assert run.stderr.read().endswith("mlxquant: stopped\n")


@pytest.mark.slow
@pytest.mark.skipif(huggingface_hub.__version__.startswith("1."), reason="it uploads to no address with a password")
def test_the_log_of_the_client_shows_no_password(hub, own_build, tmp_path):
    hub.tokens.add("Basic dXNlcjpQQVNTV09SRA==")
    hub.fail("^/lfs/", status=503, times=1)
    with command(hub, own_build, tmp_path, hub.url.replace("://", "://user:PASSWORD@")) as run:
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "503" in err, "huggingface_hub tells that it tries again"
    assert "PASSWORD" not in out + err


def test_a_dry_run_shows_the_card_and_the_files_and_asks_the_hub_nothing(hub, own_build):
    done = run(own_build, "me/build", "--dry-run")
    assert done.exit_code == 0
    assert prepare(own_build, "me/build").card in done.output
    assert all(name in done.output for name in contents(own_build))
    assert hub.requests == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "audit.json", "mlxquant.json"])
def test_a_damaged_build_is_refused_and_the_file_named(hub, own_build, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(own_build, copy)
    name = next(p.name for p in sorted(copy.glob("model*.safetensors"))) if name == "model.safetensors" else name
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    done = run(copy, "me/build")
    assert done.exit_code == 3
    assert name in done.output
    assert hub.requests == []


def test_missing_and_strange_files_are_told_together(own_build, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(own_build, copy)
    (copy / "config.json").unlink()
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(BuildError) as error:
        prepare(copy, "me/build")
    assert "config.json: missing" in str(error.value)
    assert "notes.txt: not part of the build" in str(error.value)


def test_a_build_without_hashes_cannot_be_checked_and_is_refused(tmp_path, tiny_qwen):
    build(tiny_qwen, tmp_path / "out", hash=False)
    with pytest.raises(BuildError, match="--no-hash"):
        prepare(tmp_path / "out", "me/build")


def test_a_build_of_another_tool_is_refused(tiny_qwen):
    with pytest.raises(BuildError, match=r"has no mlxquant\.json"):
        prepare(tiny_qwen, "me/build")


@pytest.mark.parametrize("name", ["build", "a/b/c", "me/build@main", "../x", "me/"])
def test_a_name_that_is_no_hub_id_is_a_usage_error(own_build, name):
    with pytest.raises(UsageError, match="a Hub id"):
        prepare(own_build, name)


# --- the card ---


def test_the_card_says_what_the_build_is(own_build):
    text = prepare(own_build, "me/build", base_model="Qwen/Tiny").card
    front = text.split("---")[1]
    assert 'base_model: "Qwen/Tiny"' in front
    assert "library_name: mlx" in front
    assert "pipeline_tag: text-generation" in front
    manifest = read_manifest(own_build)
    assert manifest is not None
    for part in (f"{manifest['totals']['bytes']:,} bytes", "gates-8bit", "mlx_lm.generate --model me/build",
                 "LM Studio", f"mlx {manifest['versions']['mlx']}"):  # fmt: skip
        assert part in text
    assert "Measurements" not in text


def test_the_card_names_what_changed_the_recipe(own_build):
    text = prepare(own_build, "me/build").card
    assert "the recipe `gates-8bit --group-size 32 --unaligned keep`: `gates-8bit` is " in text


def test_the_front_matter_is_yaml_that_the_client_reads(own_build):
    from huggingface_hub import ModelCard

    data = ModelCard(prepare(own_build, "me/build", base_model="Qwen/Tiny").card).data.to_dict()
    assert data["base_model"] == "Qwen/Tiny"
    assert data["tags"][:2] == ["mlx", "mlxquant"]


def test_a_build_from_the_hub_names_its_base_model_itself(own_build):
    manifest, audit = read_manifest(own_build), read_record(own_build / "audit.json")
    assert manifest is not None
    assert "base_model" not in card("me/build", manifest, audit)
    manifest["source"] |= {"name": "org/tiny", "revision": "a" * 40}
    assert 'base_model: "org/tiny"' in card("me/build", manifest, audit)
    assert "at commit `aaaaaaaaaaaa`" in card("me/build", manifest, audit)


def test_protected_modules_stand_in_the_card_by_role_with_the_reason(own_build):
    audit = read_record(own_build / "audit.json")
    text = prepare(own_build, "me/build").card
    protected = [m for m in audit["modules"] if m["protected"]]
    assert protected
    assert all(m["reason"] in text for m in protected)
    assert all(f"| {role} | {count} |" in text for role, count in audit["protected"]["by_role"].items())


def test_a_measurement_of_another_build_is_refused(own_build, tmp_path, monkeypatch):
    record = {"schema": "mlxquant.bench/1", "builds": [{"name": "other", "manifest_sha256": "0" * 64}]}
    monkeypatch.setattr("mlxquant.bench.record.read_bench", lambda _: record)
    with pytest.raises(RecordError, match="measured other builds"):
        prepare(own_build, "me/build", [tmp_path / "speeds.json"])


# --- what the records do not say: license, verdicts, sampling ---


def verdict_on(folder: Path, identity: dict[str, Any], name: str = "gates-8bit") -> Path:
    """A verdict's record on one candidate, known by this."""
    limits = '[[tolerance]]\nmetric = "kl_nats"\nmax = 0.02\nwhy = "|because|"\n'
    paths = write(folder, compared=compare(measure("kl_nats", 0.013, 0.002)), t=limits)
    record = validate([read_evidence(paths[0])], paths[1])
    record["candidates"][0] |= {"identity": identity, "name": name}
    for check in record["checks"]:
        check["candidate"] = name
    (path,) = write(folder, verdict=record)
    return path


def manifest_hash(build: Path) -> str:
    return hashlib.sha256((build / "mlxquant.json").read_bytes()).hexdigest()


def test_a_verdict_stands_in_the_card_as_a_table(own_build, tmp_path):
    path = verdict_on(tmp_path, {"manifest_sha256": manifest_hash(own_build)})
    text = prepare(own_build, "me/build", verdicts=[path]).card
    section = text.partition("## Quality")[2].partition("\n## ")[0]
    assert "**PASS**" in section and "2606.19558" in section
    row = next(line for line in section.splitlines() if "≤ 0.02" in line)
    assert "✅ PASS" in row and "0.013" in row and "0.011, 0.015" in row
    assert "`kl_nats`: mean KL" in section and "Judged as a recipe" not in section


def test_a_verdict_on_the_recipe_counts_for_its_build_and_says_so(own_build, tmp_path):
    manifest = read_manifest(own_build)
    assert manifest is not None
    path = verdict_on(tmp_path, {"recipe_sha256": manifest["recipe"]["sha256"]}, "<b>|mine|")
    text = prepare(own_build, "me/build", verdicts=[path]).card
    assert "Judged as a recipe, not as this build's files." in text


@pytest.mark.parametrize("identity", [{}, {"manifest_sha256": "0" * 64}])
def test_a_verdict_on_another_build_is_refused(own_build, tmp_path, identity):
    path = verdict_on(tmp_path, identity)
    with pytest.raises(RecordError, match="judged gates-8bit, none of which is known to be this build"):
        prepare(own_build, "me/build", verdicts=[path])


def test_license_base_model_and_sampling_stand_in_the_metadata_that_the_client_reads(own_build, tmp_path):
    from huggingface_hub import ModelCard

    manifest, audit = read_manifest(own_build), read_record(own_build / "audit.json")
    assert manifest is not None
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [1, 2]}
    said = Said(base_model="Qwen/Tiny", license="other", license_name="mine: #1", license_link="LICENSE",
                generation=generation)  # fmt: skip
    text = card("me/build", manifest, audit, said)
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "other" and data["license_name"] == "mine: #1" and data["license_link"] == "LICENSE"
    assert data["base_model"] == "Qwen/Tiny"
    assert data["inference"] == {"parameters": {"temperature": 0.6, "top_p": 0.95, "top_k": 20}}
    assert "mlx_lm.generate --model me/build --temp 0.6 --top-p 0.95 --top-k 20" in text


@pytest.mark.parametrize(
    "generation", [{"do_sample": False, "temperature": 0.6}, {"temperature": "hot", "top_k": None, "top_p": True}]
)
def test_sampling_that_is_not_asked_for_or_no_figure_is_left_out(own_build, generation):
    manifest, audit = read_manifest(own_build), read_record(own_build / "audit.json")
    assert manifest is not None
    text = card("me/build", manifest, audit, Said(generation=generation))
    assert "Sampling" not in text and "inference" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--license", "Apache 2"), "an id of the Hub expected"),
        (("--license", "other"), "its name and where it stands expected"),
        (("--license", "mit", "--license-name", "x"), "are for --license other"),
        (("--license-link", "x"), "for --license other, which is not given"),
    ],
)
def test_a_license_that_the_hub_would_not_take_is_a_usage_error(own_build, words, message):
    done = run(own_build, "me/build", "--dry-run", *words)
    assert (done.exit_code, message in done.stderr) == (2, True)


def test_a_card_without_a_license_is_noted(own_build):
    assert "the card names no license" in run(own_build, "me/build", "--dry-run").stderr
    assert run(own_build, "me/build", "--dry-run", "--license", "apache-2.0").stdout.startswith("---\n")
