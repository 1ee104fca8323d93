"""MkDocs hooks: pages that lie beside docs/ become part of the site, and links between all of them hold there too.

On GitHub a page is where it is used: recipes/README.md beside the recipes, CONTRIBUTING.md at the top. On the site they
are pages like any other. A link to a file that is no page leads to the repository, if its address is known (REPO_URL),
else only the link's text stays.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
BESIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "recipes/README.md",
    "audits/README.md",
    "audits/store-moe/README.md",
    "benchmarks/README.md",
    "benchmarks/tiny_moe/README.md",
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_CODE = re.compile(r"(^(?P<fence>```+).*?^(?P=fence)$)", re.M | re.S)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside docs/."""
    for name in BESIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point the links of a page, outside of code, to where their targets are on the site."""
    uri = page.file.src_uri
    origin = uri if uri in BESIDE else f"docs/{uri}"

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        if place == "README.md":  # the repository's own page is no page of the site
            place, anchor = "docs/README.md", ""
        inside = place.removeprefix("docs/") if place.startswith("docs/") else place
        if inside in files.src_uris:
            return f"{image}[{text}]({posixpath.relpath(inside, posixpath.dirname(uri))}{anchor})"
        repository = os.environ.get("REPO_URL", "")
        return f"[{text}]({repository}/blob/main/{place}{anchor})" if repository else text

    parts = _CODE.split(markdown)
    # split gives text, code, fence, text, …
    return "".join(_LINK.sub(link, part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 != 2)
