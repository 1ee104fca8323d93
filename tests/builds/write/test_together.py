"""Several builds from one reading: the bytes of separate runs, whatever interrupts the work, and one download."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mlxquant.builds.write import opening
from mlxquant.builds.write.convert import Converted, ConvertOptions, convert, convert_together
from mlxquant.builds.write.partial import Partial
from mlxquant.disk import files as disk
from mlxquant.errors import NonFiniteError, OutputError, UsageError
from mlxquant.layout.layout import Layout, read_layout
from mlxquant.plan.plan import Plan, make_plan
from mlxquant.plan.recipe.recipe import Recipe, load_recipe
from mlxquant.source.checkpoint import FolderReader, open_checkpoint
from mlxquant.source.hub.open import open_source
from tests.builds.write.cases import SMALL
from tests.builds.write.faults import Count, Dead, Die, hooked
from tests.checkpoints import Size, write_tiny, write_tiny_qwen3_5_moe
from tests.source.hub.hub_server import HubServer, use_hub
from tests.support.builds import contents, patch

RECIPES: dict[str, Callable[[], Recipe]] = {
    "gates-8bit": lambda: load_recipe("gates-8bit", group_size=32),
    "mxfp4": lambda: load_recipe("uniform-8bit", bits=4, group_size=32, mode="mxfp4"),
    "none": lambda: load_recipe("none"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together") / "source"
    write_tiny(folder, "mixtral", Size(layers=1, experts=2))
    return folder


@pytest.fixture(scope="module")
def alone(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Give each recipe's files, made by a run of its own."""
    folder = tmp_path_factory.mktemp("alone")
    layout, plans = planned(source)
    for name, plan in plans.items():
        convert(open_checkpoint(source), layout, plan, folder / name, ConvertOptions(threads=1, sizes=SMALL))
    return {name: contents(folder / name) for name in plans}


def planned(source: Path, names: Sequence[str] = tuple(RECIPES)) -> tuple[Layout, dict[str, Plan]]:
    layout = read_layout(open_checkpoint(source))
    return layout, {name: make_plan(layout, RECIPES[name](), open_checkpoint(source)) for name in names}


def together(source: Path, folder: Path, names: Sequence[str] = tuple(RECIPES), **options: object) -> list[Converted]:
    layout, plans = planned(source, names)
    settings = ConvertOptions(**{"threads": 1, "sizes": SMALL, **options})  # type: ignore[arg-type]
    return convert_together(open_checkpoint(source), layout, {folder / n: p for n, p in plans.items()}, settings)


def built(folder: Path) -> dict[str, dict[str, bytes]]:
    return {path.name: contents(path) for path in sorted(folder.iterdir())}


def test_each_build_is_byte_for_byte_that_of_its_own_run(source, alone, tmp_path):
    results = together(source, tmp_path / "new" / "out", threads=2)
    assert built(tmp_path / "new" / "out") == alone
    assert [r.out.name for r in results] == list(RECIPES)
    assert [r.resumed_bytes for r in results] == [0, 0, 0]


def test_the_source_is_read_once_for_all(source, tmp_path, monkeypatch):
    counts, read = [0], FolderReader.read_into

    def counted(reader: FolderReader, file: str, start: int, buffer: memoryview) -> None:
        counts[-1] += len(buffer)
        read(reader, file, start, buffer)

    monkeypatch.setattr(FolderReader, "read_into", counted)
    together(source, tmp_path / "one", ["gates-8bit"])
    counts.append(0)
    together(source, tmp_path / "three")
    # the signature of each samples the source; its weights are read once
    assert counts[1] < 1.2 * counts[0] + 3 * (64 << 10) * len(open_checkpoint(source).files)


def test_it_goes_on_in_every_build_wherever_it_died(source, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_sync", lambda handle: None)
    with hooked(count := Count()):
        together(source, tmp_path / "counted")
    points = len(count.seen)
    for point in [*range(0, points - 60, points // 4), *range(points - 60, points, 14)]:
        folder = tmp_path / f"{point}"
        with pytest.raises(Dead), hooked(Die(point)):
            together(source, folder)
        together(source, folder)
        assert built(folder) == alone, point


def test_a_build_that_was_begun_alone_is_finished_with_the_others_and_the_other_way_round(source, alone, tmp_path):
    with pytest.raises(Dead), hooked(Die(60)):
        together(source, tmp_path, ["mxfp4"])
    together(source, tmp_path)
    assert built(tmp_path) == alone
    with pytest.raises(Dead), hooked(Die(200)):
        together(source, tmp_path / "again")
    for name in RECIPES:
        together(source, tmp_path / "again", [name])
    assert built(tmp_path / "again") == alone


def test_a_build_that_is_there_already_is_taken_as_it_is(source, alone, tmp_path):
    together(source, tmp_path, ["none"])
    stamp = (tmp_path / "none" / "model.safetensors.index.json").stat().st_mtime_ns
    assert together(source, tmp_path)[2].resumed_bytes > 0
    assert (tmp_path / "none" / "model.safetensors.index.json").stat().st_mtime_ns == stamp
    assert built(tmp_path) == alone
    assert [r.resumed_bytes > 0 for r in together(source, tmp_path)] == [True] * 3


def test_an_out_that_is_something_else_is_refused_before_any_is_begun(source, tmp_path):
    (tmp_path / "mxfp4").mkdir()
    with pytest.raises(OutputError, match="mxfp4: exists already"):
        together(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mxfp4"]


def test_an_out_that_is_there_only_once_folders_are_made_is_refused_and_nothing_is_left(source, tmp_path):
    (tmp_path / "gates-8bit").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        together(source, tmp_path / "new" / "..")
    assert not list(tmp_path.glob("*.partial"))


def test_an_out_that_another_process_writes_is_refused_and_nothing_is_left_of_the_others(source, tmp_path):
    with Partial(tmp_path / "none").claimed(), pytest.raises(OutputError, match="another mlxquant is writing it"):
        together(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] in ([], ["none.partial"])


def test_unfinished_work_of_other_options_is_refused_and_nothing_is_left_of_the_others(source, tmp_path):
    with pytest.raises(Dead), hooked(Die(60)):
        together(source, tmp_path / "new", ["mxfp4"], audit=False)
    with pytest.raises(OutputError, match=r"mxfp4\.partial: holds the unfinished work"):
        together(source, tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["mxfp4.partial"]


def test_nothing_stays_behind_where_a_weight_is_refused(tmp_path):
    write_tiny(tmp_path / "source", "mixtral", Size(layers=1, experts=2))
    patch(tmp_path / "source", "lm_head.weight", b"\xff\xff")
    with pytest.raises(NonFiniteError, match=r"lm_head\.weight: row 0"):
        together(tmp_path / "source", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_the_disk_has_to_hold_them_all(source, tmp_path, monkeypatch):
    _, plans = planned(source)
    least = max(p.totals["bytes"] for p in plans.values())
    monkeypatch.setattr(disk, "free_bytes", lambda path: (64 << 20) + least + (4 << 10))
    with pytest.raises(OutputError, match=r"the 3 builds take .* \([\d,]+ bytes\); .* are free there"):
        together(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_least_memory_counts_what_each_build_makes_of_a_block(source, tmp_path):
    needs = []
    for names in (["none"], ["none", "gates-8bit"]):
        with pytest.raises(UsageError, match="are needed for one worker") as refused:
            together(source, tmp_path / "out", names, max_memory=1 << 20)
        needs.append(refused.value.args[0])
    assert needs[0] != needs[1]


def test_a_source_on_the_hub_is_downloaded_once(tmp_path, monkeypatch):
    write_tiny_qwen3_5_moe(tmp_path / "many", shards=4)
    with HubServer() as hub:
        hub.add("org/many", tmp_path / "many")
        use_hub(hub, monkeypatch, tmp_path / "hub")
        opened = open_source("org/many", weights=True)
        layout = read_layout(opened)
        recipes = {"a": load_recipe("gates-8bit", group_size=32, unaligned="keep"), "b": load_recipe("none")}
        plans = {tmp_path / "out" / name: make_plan(layout, recipe, opened) for name, recipe in recipes.items()}
        hub.requests.clear()
        convert_together(opened, layout, plans, ConvertOptions(threads=2))
        whole = [r.path for r in hub.requests if r.path.startswith("/cdn/") and "range" not in r.headers]
    assert len(whole) == len(set(whole)) == 4
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == ["a", "b"]


@pytest.mark.slow
def test_the_command_is_killed_again_and_again_and_its_builds_are_those_of_separate_runs(tmp_path, root):
    source, command = tmp_path / "source", [sys.executable, "-m", "mlxquant", "convert"]
    write_tiny(source, "qwen3_moe", Size(layers=2, hidden=1024, experts=24, inner=512))
    env = {**os.environ, "PYTHONPATH": str(root)}
    names = ["gates-8bit", "uniform-8bit:bits=4"]
    for name in names:
        subprocess.run([*command, source, "-r", name, "-o", tmp_path / "alone" / name], env=env, check=True)
    words = [*command, str(source), *(w for name in names for w in ("-r", name)), "-o", str(tmp_path / "out")]
    kills = 0
    while not all((tmp_path / "out" / name).exists() for name in names):
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((tmp_path / "out").glob("*.partial/build/*.safetensors")):
            time.sleep(0.005)
        if kills < 3:
            time.sleep(0.03 * (kills + 1))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert subprocess.run(words, env=env, check=False).returncode == 0
    assert built(tmp_path / "out") == built(tmp_path / "alone")


def test_how_long_it_takes_is_measured_before_it_begins_and_leaves_nothing(source, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "LEAST", 0)
    monkeypatch.setattr(opening, "_SECONDS", 0.05)
    monkeypatch.setattr(opening, "_WRITE", 1 << 20)
    layout, plans = planned(source)
    openings: list[opening.Opening] = []
    outs = {tmp_path / name: plan for name, plan in plans.items()}
    options = ConvertOptions(threads=2, sizes=SMALL)
    convert_together(open_checkpoint(source), layout, outs, options, opening=openings.append)
    assert built(tmp_path) == alone
    (takes,) = openings
    assert takes.seconds is not None and 0 < takes.seconds < 60
    assert takes.left is None
    assert takes.write_bytes == sum(r.nbytes for r in together(source, tmp_path))
