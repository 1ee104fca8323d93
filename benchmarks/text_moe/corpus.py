"""English prose and manuals out of Debian packages, as documents: what the text model reads, and what judges it.

    python benchmarks/text_moe/corpus.py runs/text        # needs Debian 12's package mirrors

The packages are fetched and unpacked, never installed. A document is one file's text: markup, listings of one word a
line and what repeats are left out. A document belongs to `train`, `calibrate` or `judge` by the hash of its text, so
that the three never overlap, whichever packages are there. The texts are other people's and stay out of the project;
`texts.jsonl` in the run's folder holds them.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

PACKAGES = (
    *("anarchism", "cfi-en", "debian-faq", "debian-handbook", "debian-policy", "debian-reference-en"),
    *("developers-reference", "fortunes", "git-doc", "jargon", "jargon-text", "linux-doc-6.1", "maint-guide"),
    *("octave-doc", "perl-doc", "postgresql-doc-15", "python3.11-doc", "r-doc-html", "vim-doc"),
)
LEAST, MOST = 1_000, 20_000  # characters of a document; what is longer is cut into several
SKIPPED = {"script", "style", "pre", "head", "nav", "table", "code"}
OMITTED = re.compile(r"/html/(?!en-US/)[a-z]{2}(-[A-Z]{2})?/|[Oo]ffensive|changelog|copyright|/off/")
LEAVES = (".html", ".htm", ".txt", ".rst", ".pod", ".gz")


class Prose(HTMLParser):
    """Gathers the text of a page, a line for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.skipping = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Leave out what is not prose; a block begins a line."""
        self.skipping += tag in SKIPPED and tag != "code"
        if tag in ("p", "li", "h1", "h2", "h3", "h4", "dt", "dd", "div", "br"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Go on after what is left out."""
        if tag in SKIPPED and tag != "code" and self.skipping:
            self.skipping -= 1

    def handle_data(self, data: str) -> None:
        """Keep text."""
        if not self.skipping:
            self.parts.append(re.sub(r"\s+", " ", data))


def text_of(path: Path) -> str:
    """A file's prose: pages without markup, text as it is."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        import gzip

        data = gzip.decompress(data)
    text = data.decode("utf-8", errors="replace")
    if "<html" in text[:2000].lower():
        page = Prose()
        page.feed(text)
        text = "".join(page.parts)
    paragraphs = []
    for block in re.split(r"\n\s*\n" if "<html" not in text[:2000].lower() else r"\n", text):
        line = re.sub(r"\s+", " ", block).strip()
        words = re.findall(r"[A-Za-z]+", line)
        letters = sum(map(len, words))
        if len(words) >= 8 and letters > 0.7 * len(line) and line.isascii():
            paragraphs.append(line)
    return "\n".join(paragraphs)


def documents(folder: Path) -> Iterator[dict[str, str]]:
    """Yield every document once: {"package", "part", "sha256", "text"}."""
    seen: set[str] = set()
    for package in PACKAGES:
        for path in sorted((folder / "packages" / package).rglob("*")):
            if not path.is_file() or path.is_symlink() or not (path.suffix in LEAVES or "fortunes" in path.parts):
                continue
            lines = [line for line in text_of(path).split("\n") if line not in seen]
            seen.update(lines)
            kept: list[str] = []
            for line in [*lines, None]:
                if line is None or sum(map(len, kept)) > MOST:
                    text = "\n".join(kept)
                    if len(text) >= LEAST:
                        digest = hashlib.sha256(text.encode()).hexdigest()
                        yield {"package": package, "part": part(digest), "sha256": digest, "text": text}
                    kept = []
                if line is not None:
                    kept.append(line)


def part(digest: str) -> str:
    """Of 64 documents, two are calibrated on and two judge."""
    return {0: "calibrate", 1: "calibrate", 2: "judge", 3: "judge"}.get(int(digest[:8], 16) % 64, "train")


def fetch(folder: Path) -> None:
    """Download and unpack the packages that are not there yet."""
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        into = folder / "packages" / package
        if not into.exists():
            subprocess.run(["apt-get", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            archive = next(folder.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive, into], check=True)


def main() -> None:
    """Fetch, and write texts.jsonl."""
    folder = Path(sys.argv[1])
    fetch(folder)
    counts: dict[str, list[int]] = {}
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as out:
        for document in documents(folder):
            out.write(json.dumps(document) + "\n")
            for key in (document["package"], document["part"]):
                documents_and_characters = counts.setdefault(key, [0, 0])
                documents_and_characters[0] += 1
                documents_and_characters[1] += len(document["text"])
    for key, (n, size) in counts.items():
        print(f"{key:24} {n:6} documents {size / 1e6:8.2f} M characters")


if __name__ == "__main__":
    main()
