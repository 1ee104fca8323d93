"""The tables of docs/how-it-works/configs.md, made from what `layout.class_fields` says.

``python -m tests.support.class_tables`` writes them into the page anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxquant.layout.class_config import MISSING, class_fields_of
from mlxquant.layout.class_fields import ALIASES, COMPUTED, DEFAULTS, PLAIN_ROPE, SWIGLU
from mlxquant.words.text import markdown_table

PAGE = Path(__file__).resolve().parents[2] / "docs/how-it-works/configs.md"
BEGIN, END = "<!-- tables: python -m tests.support.class_tables -->\n", "<!-- end of the tables -->\n"


def shown(value: Any) -> str:
    return "none" if value is MISSING else f"`{json.dumps(value)}`"


def default_rows() -> Iterator[list[str]]:
    for model_type, fields in DEFAULTS.items():
        taken = class_fields_of(model_type)
        for name, value in fields.items():
            if name in taken:
                yield [model_type, f"`{name}`", shown(value), shown(taken[name])]


def refused_rows() -> Iterator[list[str]]:
    for module, fields in COMPUTED.items():
        for name, values in fields.items():
            yield [module, f"`{name}`", ", ".join(shown(v) for v in values)]


def text() -> str:
    """The page's part between its two marks."""
    renamed = [[m, f"`{n}`", ", ".join(f"`{o}`" for o in o)] for m, names in ALIASES.items() for n, o in names.items()]
    return "\n".join([
        "**Defaults** that are written where a config leaves the field out and the class has another default, or none:",
        "",
        markdown_table(["model type", "field", "transformers", "mlx-lm"], list(default_rows())),
        "",
        "**Other names** that transformers 5 writes:",
        "",
        markdown_table(["class", "field of mlx-lm", "taken from"], renamed),
        "",
        "**Refused** unless the value is one of these, since the class computes nothing else:",
        "",
        markdown_table(["class", "field", "computed"], list(refused_rows())),
        "",
        f"`hidden_act` other than silu: {', '.join(sorted(SWIGLU))}.",
        "",
        "A scaled RoPE (YaRN, linear, llama3, dynamic), besides every class that has no field for it:"
        f" {', '.join(sorted(PLAIN_ROPE))}.",
        "",
    ])  # fmt: skip


def refreshed(page: str) -> str:
    """The page with its tables made anew."""
    return re.sub(
        f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{text()}\n{END}", page, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text()))
