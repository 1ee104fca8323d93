"""`plan` over configs of every architecture, one value of each made wrong: a plan, or one clear line.

``python -m tests.fuzz.configs --cases 2000 --seed 7`` tries random ones, ``--case NAME`` one again. A case's name
(``qwen3_moe:rope_theta:3:gates-8bit``) says the config, the field, the number of the value and the recipe.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from click.testing import CliRunner

from mlxquant.cli import main
from mlxquant.plan.recipe.recipe import available
from tests.support.architectures import TABLE, config_of

ROOT = Path(__file__).resolve().parents[2]
# What stands in the place of a value; the first takes it out.
MISSING = object()
WRONG: tuple[Any, ...] = (
    MISSING, None, "x", "", [], [None], {}, {"a": 1}, -1, 0, 1, 3, 10**30, 0.5, -2.5, float("nan"), True, False,
    ["full_attention"], [0, 1], {"rope_type": "yarn"}, {"full_attention": {"rope_theta": 1}}, "1" * 5000,
)  # fmt: skip


@cache
def configs() -> dict[str, dict[str, Any]]:
    """The configs of all architectures of the tests, and of the reference data where it is there, by name."""
    table = {name: config_of(entry["config"]) for name, entry in TABLE.items()}
    for path in sorted((ROOT.parent / "shared" / "reference" / "configs").glob("*.json")):
        table[path.stem] = json.loads(path.read_text())
    return table


def fields(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The names of a config's fields, those of tables in it with a dot."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{key}.")


# Fields that decide where others are looked for, and that a config may lack.
OTHERS = ("rope_parameters", "rope_scaling", "tie_word_embeddings", "layer_types", "mlp_layer_types", "text_config",
          "quantization_config", "num_nextn_predict_layers", "head_dim", "architectures", "hidden_act")  # fmt: skip


def changed(config: Mapping[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A config with one field replaced, or taken out."""
    whole: dict[str, Any] = copy.deepcopy(dict(config))
    *path, last = field.split(".")
    table = whole
    for key in path:
        table = table[key]
    if value is MISSING:
        table.pop(last, None)
    else:
        table[last] = value
    return whole


def cases(random: Random) -> Iterator[str]:
    """Names of cases without end."""
    table, recipes = configs(), [entry.name for entry in available()]
    while True:
        name = random.choice(list(table))
        field = random.choice([*fields(table[name]), *OTHERS])
        yield f"{name}:{field}:{random.randrange(len(WRONG))}:{random.choice(recipes)}"


def try_case(case: str, folder: Path) -> str | None:
    """Run a case; give what is wrong with how it ended, None where nothing is."""
    name, field, number, recipe = case.rsplit(":", 3)
    path = folder / "config.json"
    path.write_text(json.dumps(changed(configs()[name], field, WRONG[int(number)])))
    return plan(path, recipe)


def plan(path: Path, recipe: str) -> str | None:
    """Plan a config; give what is wrong with how that ended, None where nothing is."""
    done = CliRunner().invoke(main, ["plan", str(path), "-r", recipe], prog_name="mlxquant")
    complaint = done.stderr
    if done.exit_code not in (0, 2, 3):
        return f"exit code {done.exit_code}: {complaint[-300:]} {done.exception!r}"
    if "internal error" in complaint or "Traceback" in complaint:
        return complaint[-300:]
    if done.exit_code == 3 and not complaint.startswith("mlxquant: "):
        return f"no clear line: {complaint[:200]!r}"
    return None


def run() -> None:
    """Try cases, and print those that fail."""
    parser = argparse.ArgumentParser(description="Plan wrong configs.")
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case")
    options = parser.parse_args()
    names = cases(Random(options.seed))
    with TemporaryDirectory() as folder:
        for case in [options.case] if options.case else [next(names) for _ in range(options.cases)]:
            if (wrong := try_case(case, Path(folder))) is not None:
                print(f"{case}: {wrong}", flush=True)


if __name__ == "__main__":
    run()
