"""What audits/store-deep and its page say is what the records hold."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "audits" / "store-deep"
PAGES = [FOLDER / "README.md", ROOT / "docs" / "studies" / "store-deep.md"]


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(f"deep_{name}", ROOT / "benchmarks" / "store_deep" / f"{name}.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tables_of_a_page_are_what_the_records_hold(page):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table: " in text and script("tables").filled(text) == text


def test_every_build_played_every_task_and_documents_of_a_kind_are_apart():
    record = json.loads((FOLDER / "eval.json").read_text(encoding="utf-8"))
    sides = 1 + len(record["candidates"])
    assert len(record["trials"]) == sides * len({t["item"] for t in record["trials"]})
    seeds = [first + n for first, tasks in script("dialogues").FILES.values() for n in range(sum(tasks.values()))]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {int(t["item"].rpartition("-")[2]) for t in record["trials"]}
