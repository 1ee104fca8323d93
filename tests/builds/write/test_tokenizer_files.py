"""What a tokenizer is made of is copied into a build, or named as left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlxquant.check.load import check_load
from mlxquant.check.verify import verify
from mlxquant.disk.files import names_below
from mlxquant.errors import SourceError
from mlxquant.source.checkpoint import open_checkpoint
from mlxquant.source.tokenizer import has_tokenizer, tokenizer_notes
from tests.source.two_shards import POINTER
from tests.support.builds import build

TEMPLATE = "additional_chat_templates/tool_use.jinja"


@pytest.fixture
def source(tiny: Any, tmp_path: Path) -> Path:
    """Give a copy of a tiny checkpoint with a tokenizer."""
    folder = tmp_path / "source"
    shutil.copytree(tiny("qwen3_moe"), folder)
    assert (folder / "tokenizer.json").is_file()
    return folder


def notes(out: Path) -> list[str]:
    record = json.loads((out / "audit.json").read_text())
    text = " ".join((out / "AUDIT.md").read_text().split())
    found = [n for n in record["notes"] if "tokenizer" in n or n.startswith(("left out", "copied"))]
    assert all(note.split(",")[0].replace("_", "\\_") in text or note.split(",")[0] in text for note in found)
    return found


def with_template(folder: Path) -> None:
    (folder / TEMPLATE).parent.mkdir()
    (folder / TEMPLATE).write_text("{{ tools }}")
    (folder / "additional_chat_templates" / "notes.txt").write_text("x")


def with_code(folder: Path, auto_map: object = ("tokenization_x.X", None)) -> None:
    """Make the tokenizer one of its own code."""
    (folder / "tokenizer.json").unlink()
    (folder / "tiktoken.model").write_text("AA== 0\n")
    (folder / "tokenization_x.py").write_text("raise SystemExit('it was run')\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": auto_map}}))


# --- named chat templates ---


def test_named_chat_templates_are_copied_and_verified(source, tmp_path):
    with_template(source)
    build(source, tmp_path / "out")
    assert (tmp_path / "out" / TEMPLATE).read_text() == "{{ tools }}"
    assert names_below(tmp_path / "out" / "additional_chat_templates") == ["tool_use.jinja"]
    assert verify(tmp_path / "out").differences == ()
    (tmp_path / "out" / TEMPLATE).write_text("{{ other }}")
    assert any(d.startswith(f"{TEMPLATE}: ") for d in verify(tmp_path / "out").differences)


def test_a_file_beside_the_named_templates_is_no_part_of_the_build(source, tmp_path):
    with_template(source)
    build(source, tmp_path / "out")
    (tmp_path / "out" / "additional_chat_templates" / "more.jinja").write_text("x")
    assert verify(tmp_path / "out").differences == (
        "additional_chat_templates/more.jinja: not part of the build; move it away",
    )


def test_transformers_finds_the_named_templates_of_a_build(source, tmp_path):
    from transformers import AutoTokenizer

    with_template(source)
    build(source, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template["tool_use"] == "{{ tools }}"


def test_a_named_template_that_links_out_of_the_folder_is_not_followed(source, tmp_path):
    with_template(source)
    (tmp_path / "secret").write_text("secret")
    (source / TEMPLATE).unlink()
    (source / TEMPLATE).symlink_to(tmp_path / "secret")
    assert any(note.startswith(f"{TEMPLATE}: left out") for note in open_checkpoint(source).notes)
    build(source, tmp_path / "out")
    assert not (tmp_path / "out" / TEMPLATE).exists()


def test_a_folder_of_templates_that_is_a_link_is_not_followed(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jinja").write_text("secret")
    (source / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    build(source, tmp_path / "out")
    assert not (tmp_path / "out" / "additional_chat_templates").exists()


def test_a_list_of_templates_in_the_tokenizers_config_goes_along_with_it(source, tmp_path):
    templates = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    config = json.loads((source / "tokenizer_config.json").read_text()) | {"chat_template": templates}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "chat_template.json").write_text('{"chat_template": "c"}')
    build(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == templates
    assert (tmp_path / "out" / "chat_template.json").is_file()


# --- the tokenizer's own code ---


def test_code_that_the_tokenizer_needs_is_named_as_left_out(source, tmp_path):
    with_code(source)
    build(source, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenization_x.py").exists()
    (note,) = notes(tmp_path / "out")
    assert note.startswith("left out: tokenization_x.py, the tokenizer's own code") and "trust_remote_code" in note


def test_with_trust_the_code_is_copied_and_never_run(source, tmp_path):
    with_code(source)
    build(source, tmp_path / "out", trust_remote_code=True)
    assert (tmp_path / "out" / "tokenization_x.py").read_text().startswith("raise")
    assert (tmp_path / "out" / "tiktoken.model").is_file()
    (note,) = notes(tmp_path / "out")
    assert note.startswith("copied: tokenization_x.py") and "only with that code and trust_remote_code" in note


def test_code_that_is_named_and_not_there_is_said(source, tmp_path):
    with_code(source, ["lost.X", None])
    assert "names lost.py for the tokenizer, which the source does not have" in " ".join(_notes(source))


def test_code_in_another_repository_is_said(source):
    with_code(source, ["org/other--tok.X", None])
    assert "code of another repository (org/other--tok.X)" in " ".join(_notes(source))


def test_code_that_the_models_config_names_for_the_tokenizer_is_the_tokenizers_own(source):
    config = json.loads((source / "config.json").read_text())
    mapped = {"AutoTokenizer": ["tok.X", None], "AutoModelForCausalLM": "modeling_x.Y"}
    (source / "config.json").write_text(json.dumps({**config, "auto_map": mapped}))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    (source / "tok.py").write_text("")
    (note,) = _notes(source)
    assert note.startswith("left out: tok.py, the tokenizer's own code, which config.json names. --trust-remote-code")


def test_a_broken_table_of_the_tokenizer_is_said(source):
    (source / "tokenizer_config.json").write_text("{")
    (note,) = _notes(source)
    assert note.startswith("tokenizer_config.json is not readable as JSON, so that no tokenizer can be loaded with it")


def test_other_code_is_named_as_left_out(source):
    (source / "modeling_x.py").write_text("")
    (note,) = _notes(source)
    assert note == "left out: modeling_x.py, code that no class of mlx-lm needs; --trust-remote-code copies it"
    assert _notes(source, trust=True) == []


def _notes(folder: Path, *, trust: bool = False) -> list[str]:
    names = names_below(folder)
    return list(tokenizer_notes(names, names, lambda n: (folder / n).read_bytes(), trust_remote_code=trust))


# --- no tokenizer, and parts of one ---


def test_a_source_without_a_tokenizer_says_so_and_so_does_check_load(source, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    build(source, tmp_path / "out")
    (note,) = notes(tmp_path / "out")
    assert note.startswith("the source has no tokenizer (tokenizer.json, ")
    answer = check_load(tmp_path / "out", tokens=1)["libraries"][0]
    assert answer["loaded"] and answer["text"]["error"].startswith("not tried: the build has no tokenizer")


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer.model", "tokenizer.model.v3", "qwen.tiktoken", "tiktoken.model", "tekken.json",
     "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"],
)  # fmt: skip
def test_each_form_of_a_vocabulary_counts_as_a_tokenizer(name):
    assert has_tokenizer(["config.json", name])
    assert not has_tokenizer(["config.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt"])


def test_a_part_of_an_unknown_kind_is_named_as_left_out(source):
    (source / "tokenizer.model.v3").write_bytes(b"x")
    names = names_below(source)
    copied = [name for name in names if name != "tokenizer.model.v3"]
    said = list(tokenizer_notes(names, copied, lambda n: (source / n).read_bytes(), trust_remote_code=False))
    assert [note.partition(",")[0] for note in said] == ["left out: tokenizer.model.v3"]


def test_a_pointer_in_place_of_the_tokenizer_is_refused_before_anything_is_written(source, tmp_path):
    (source / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(SourceError, match=r"tokenizer\.json: a Git LFS pointer .* `git lfs pull`"):
        build(source, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_empty_tokenizer_is_refused(source, tmp_path):
    (source / "tokenizer.json").write_bytes(b"")
    with pytest.raises(SourceError, match=r"tokenizer\.json: 0 bytes"):
        build(source, tmp_path / "out")
