"""Records join by what a candidate is, whatever each of them calls it."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.cli import main
from mlxquant.plan.recipe.variation import load_variation
from mlxquant.records.candidates import identity_entry, names_of, recipe_name
from mlxquant.report.verdict import verdict_text
from mlxquant.validate import read_evidence
from tests.validate.validate_records import bench, compare, evaluation, measure, write

WORD = "gates-8bit:bits=4"
MANIFEST = b'{"schema": "mlxquant.manifest/1"}'
HASH = sha256(MANIFEST).hexdigest()
RULES = "\n".join(f"[[tolerance]]\n{text}" for text in (
    'metric = "kl_nats"\nmax = 1', 'metric = "pass"\nmin = 0.1', 'metric = "bytes"\nmax = 9999',
))  # fmt: skip


def recipe(word: str) -> dict[str, Any]:
    loaded = load_variation(word)
    return {"name": loaded.name, "sha256": loaded.sha256, "overrides": list(loaded.overrides)}


def records(folder: Path, **changed: Any) -> list[Path]:
    """A comparison of three recipes, an evaluation of a served build, a bench of the build."""
    compared = compare(measure("kl_nats", 0.01))
    compared["candidates"] = [
        {**compared["candidates"][0], "name": word, "recipe": recipe(word)}
        for word in (WORD, "gates-8bit:bits=3", "gates-8bit")
    ]
    side = {
        "name": "my model",
        "kind": "endpoint",
        "model": "served/q4",
        "manifest_sha256": HASH,
        "recipe": recipe(WORD),
    }
    evaluated = evaluation(measure("pass", 0.9, 0.01), side=side | changed)
    timed = bench()
    timed["builds"][1] |= {"name": "q4", "manifest_sha256": HASH, "recipe": None}
    return write(folder, compare=compared, eval=evaluated, bench=timed, tolerances=RULES)


def judged(folder: Path, *words: str, paths: list[Path] | None = None) -> Result:
    *files, rules = paths or records(folder)
    candidate = [option for word in words for option in ("--candidate", word)]
    return CliRunner().invoke(main, ["validate", *map(str, files), "-t", str(rules), *candidate, "--json"])


@pytest.mark.parametrize(
    "word",
    [WORD, "gates-8bit:bits=4,", "my model", "served/q4", "q4", "/builds/q4/", HASH, HASH[:8], f"sha256:{HASH[:12]}",
     load_variation(WORD).sha256, load_variation(WORD).sha256[:7].upper()],
)  # fmt: skip
def test_whatever_names_a_candidate_finds_it_in_every_record(tmp_path: Path, word: str) -> None:
    done = judged(tmp_path, word)
    if word.endswith(","):  # no name, no recipe, no hash
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert {(check["file"], check["status"]) for check in record["checks"]} >= {
        ("compare.json", "PASS"), ("eval.json", "PASS"),
    }  # fmt: skip
    assert not [w for w in record["warnings"] if "assumed" in w or "taken to be" in w]
    (candidate,) = record["candidates"]
    assert candidate["measured_as"] == {"compare.json": WORD, "eval.json": "my model", "bench.json": "q4"}
    words = " ".join(verdict_text(record).split())
    assert f"joined {candidate['name']} is" in words and ("in bench.json" in words or candidate["name"] == "q4")


def test_two_words_for_one_candidate_are_judged_once(tmp_path: Path) -> None:
    record = json.loads(judged(tmp_path, WORD, "q4", "gates-8bit:bits=3").stdout or "{}")
    assert not record  # no build of 3 bits was evaluated
    record = json.loads(judged(tmp_path, WORD, "q4").stdout)
    assert [c["name"] for c in record["candidates"]] == [WORD]


def test_the_folder_of_a_build_is_known_by_its_manifest_not_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "mlxquant.json").write_bytes(MANIFEST)
    assert judged(tmp_path, str(folder)).exit_code == 0
    (folder / "mlxquant.json").write_bytes(b"{}")
    done = judged(tmp_path, str(folder.rename(tmp_path / "q4")))
    assert done.exit_code == 2 and "no record has" in done.stderr


@pytest.mark.parametrize(("word", "listed"), [("gates-8bit:group_size=64", "no record has"), ("aaaa", "no record has")])
def test_a_word_that_no_record_has_ends_with_2_and_the_names(tmp_path: Path, word: str, listed: str) -> None:
    done = judged(tmp_path, word)
    assert done.exit_code == 2 and listed in done.stderr and WORD in done.stderr


def test_the_beginning_of_a_name_serves_where_it_means_one(tmp_path: Path) -> None:
    (candidate,) = json.loads(judged(tmp_path, "my m").stdout)["candidates"]
    assert candidate["name"] == WORD and candidate["measured_as"]["eval.json"] == "my model"
    done = judged(tmp_path, "gates-8bit:b")
    assert done.exit_code == 2 and "means several" in done.stderr and WORD in done.stderr
    assert "no record has" in judged(tmp_path, "my").stderr


def test_a_word_that_means_several_lists_them_with_their_hashes(tmp_path: Path) -> None:
    *files, rules = records(tmp_path)
    contents = json.loads(files[0].read_text())
    contents["candidates"] = contents["candidates"][:2]  # none is called gates-8bit
    files[0].write_text(json.dumps(contents))
    done = judged(tmp_path, "gates-8bit", paths=[*files, rules])
    assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
    assert "means several" in done.stderr and load_variation("gates-8bit:bits=3").sha256[:12] in done.stderr


def test_a_build_of_another_recipe_or_source_under_the_same_name_is_refused(tmp_path: Path) -> None:
    paths = records(tmp_path, name=WORD, manifest_sha256="f" * 64, recipe=recipe("gates-8bit:bits=3"))
    done = judged(tmp_path, WORD, paths=paths)
    assert done.exit_code == 2 and "recipe_sha256 differs" in done.stderr
    paths = records(tmp_path, source={"name": "org/Other", "revision": None})
    done = judged(tmp_path, WORD, paths=paths)
    assert done.exit_code == 2 and "source differs" in done.stderr


def test_one_candidate_a_record_needs_no_word_and_is_joined_by_its_hash(tmp_path: Path) -> None:
    *files, rules = records(tmp_path)
    done = judged(tmp_path, paths=[*files[1:], rules])
    record = json.loads(done.stdout)
    assert record["candidates"][0]["identity"]["manifest_sha256"] == HASH
    assert not [w for w in record["warnings"] if "taken to be" in w]


def test_a_recipe_is_called_as_it_is_typed() -> None:
    overrides = ["--bits 4", "--group-size 128,64", "--set role=router:keep"]
    assert recipe_name({"name": "a", "overrides": overrides}) == "a:bits=4,group_size=128,64 --set role=router:keep"
    assert recipe_name({"name": "a", "sha256": "0"}) is None  # a record that does not say whether it was changed
    assert names_of({"name": "x", "model": "org/m", "recipe": {"name": "a", "overrides": []}}) == [
        "x",
        "a",
        "org/m",
        "m",
    ]


def test_a_build_of_another_tool_has_hashes_alone() -> None:
    assert identity_entry(None, None, "0" * 64) == {"manifest_sha256": None, "config_sha256": "0" * 64, "recipe": None}


def test_the_audit_in_a_build_is_of_the_build_that_its_manifest_vouches_for(tmp_path: Path) -> None:
    from tests.report.report_records import audit

    text = json.dumps(audit())
    (tmp_path / "audit.json").write_text(text)
    own = sha256(text.encode()).hexdigest()
    manifest = json.dumps({"schema": "mlxquant.manifest/1", "files": {"audit.json": {"sha256": own}}})
    (tmp_path / "mlxquant.json").write_text(manifest)
    (side,) = read_evidence(tmp_path).candidates
    assert side.identity["manifest_sha256"] == sha256(manifest.encode()).hexdigest()
    (tmp_path / "mlxquant.json").write_text(manifest.replace(own, "0" * 64))
    (side,) = read_evidence(tmp_path).candidates
    assert "manifest_sha256" not in side.identity
