"""Hashes of what the commands write, so that two versions of mlxquant can be held against each other.

    python benchmarks/outputs.py SOURCES MLXQUANT [TEXTS] > hashes.txt

SOURCES is a folder of checkpoints in the Hub's layout, with the store model among them as `store_moe`; MLXQUANT is the
program (`.venv/bin/mlxquant`). Dates, durations, the machine and the version are taken out before hashing; everything
else is hashed byte for byte. What commands print goes into the folder TEXTS too, as it was hashed. It does not judge:
`diff` of two such lists, or `diff -r` of two such folders, does.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VOLATILE = [
    (
        re.compile(
            r'"(machine|versions|date|measured|seconds|duration_s|elapsed_s|created)": ?(\{[^{}]*\}|"[^"]*"|[0-9.e+-]+)'
        ),
        r'"\1": 0',
    ),
    (re.compile(r'"mlxquant": ?"[^"]*"'), '"mlxquant": 0'),
    (re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?(Z| UTC)?"), "DATE"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|min|MB/s|GB/s)\b"), "TIME"),
]
texts: Path | None = None
BUILDS = [("gates-8bit", "64"), ("deepseek-8bit", "64"), ("mlx-lm-default", None), ("none", None)]


def main() -> None:
    """Run the commands and print a hash a line."""
    sources, program = Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).absolute())
    global texts
    texts = Path(sys.argv[3]).absolute() if len(sys.argv) > 3 else None
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted(p for p in sources.iterdir() if (p / "config.json").exists()):
            builds(program, source, Path(scratch))
        records(program, sources, Path(scratch))


def builds(program: str, source: Path, scratch: Path) -> None:
    """Plans, builds and audits of one checkpoint."""
    for recipe, group in BUILDS:
        name = f"{source.name}/{recipe}"
        options = [str(source), "-r", recipe, *(["--group-size", group] if group else []), "--unaligned", "keep"]
        show(f"plan {name}", program, ["plan", *options], scratch)
        show(f"plan --json {name}", program, ["plan", *options, "--json"], scratch)
        out = scratch / f"{source.name}-{recipe}"
        show(f"convert {name}", program, ["convert", *options, "-o", out.name], scratch)
        for path in sorted(out.rglob("*")) if out.is_dir() else []:
            if path.is_file():
                print(digest(path.read_bytes(), str(scratch)), f"build {name}/{path.relative_to(out)}", flush=True)
        if not out.is_dir():
            continue
        for extra in ([], ["--json"], ["--source", str(source)]):
            show(f"audit {name} {extra[:1]}", program, ["audit", out.name, *extra], scratch)
        show(f"verify {name}", program, ["verify", out.name], scratch)
        show(f"recipes --from {name}", program, ["recipes", "--from", out.name], scratch)
    first, second = (f"{source.name}-{recipe}" for recipe, _ in BUILDS[:2])
    for form in ("", "--json", "--md"):
        show(f"diff {source.name} {form}", program, ["diff", first, second, *([form] if form else [])], scratch)


def records(program: str, sources: Path, scratch: Path) -> None:
    """Texts and figures of the records that come along, and of one small comparison and evaluation."""
    store, tau2 = ROOT / "audits" / "store-moe", ROOT.parent / "shared" / "reference" / "tau2"
    data = scratch / "data.jsonl"
    data.write_text("".join(f'{{"text": "A short document number {i} about nothing."}}\n' for i in range(6)))
    compare = ["compare", str(sources / "store_moe"), "-r", "gates-8bit", "-r", "gates-4bit", "--group-size", "64"]
    show("compare", program, [*compare, "--data", data.name, "--no-own", "--json"], scratch)
    show("compare --from", program, ["compare", "--from", str(store / "compare.json")], scratch)
    show(
        "sweep --from",
        program,
        ["sweep", "--from", str(store / "compare.json"), "-t", str(store / "tolerances.toml")],
        scratch,
    )
    for name, candidate in (
        ("compare", "gates-8bit:bits=8"),
        ("compare", "gates-8bit:bits=3"),
        ("eval", "gates-4"),
    ):
        call = ["validate", str(store / f"{name}.json"), "-t", str(store / "tolerances.toml"), "--candidate", candidate]
        show(f"validate {name} {candidate}", program, call, scratch)
        show(f"validate --json {name} {candidate}", program, [*call, "--json"], scratch)
    for by in ("slice", "depth", "layer", "pair", "statistic"):
        show(f"compare --by {by}", program, ["compare", "--from", str(store / "compare.json"), "--by", by], scratch)
    build = "store_moe-gates-8bit"
    call = ["eval", "--baseline", build, "--candidate", build, "--calls", "5", "--tasks", "2", "--json"]
    show("eval", program, call, scratch)
    for path in sorted(tau2.glob("*.json.gz")):
        results = scratch / path.stem
        results.write_bytes(gzip.decompress(path.read_bytes()))
        show(f"tau2 {path.stem}", program, ["tau2", results.name], scratch)
        show(f"tau2 --json {path.stem}", program, ["tau2", results.name, "--json"], scratch)
    page = scratch / "page.html"
    show(
        "report",
        program,
        ["report", *(str(store / f"{n}.json") for n in ("compare", "eval", "sweep")), "-o", page.name],
        scratch,
    )
    if page.is_file():
        print(digest(page.read_bytes(), str(scratch)), "report page", flush=True)
    show("bench --predict", program, ["bench", "--predict", build, "--chip", "M3 Ultra", "-p", "8192"], scratch)


def show(name: str, program: str, arguments: list[str], folder: Path) -> None:
    """Run a command and print the hash of its exit code and standard output."""
    run = subprocess.run([program, *arguments], cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    text = f"exit {run.returncode}\n".encode() + run.stdout
    print(digest(text, str(folder)), f"{name} (exit {run.returncode})", flush=True)
    if texts is not None:
        texts.mkdir(exist_ok=True)
        (texts / re.sub(r"[^\w.-]+", "_", name)).write_text(
            comparable(text.decode(), str(folder)) + run.stderr.decode()
        )


def digest(data: bytes, folder: str) -> str:
    """SHA-256 of what does not change from run to run."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(data).hexdigest()[:16]
    return hashlib.sha256(comparable(text, folder).encode()).hexdigest()[:16]


def comparable(text: str, folder: str) -> str:
    """A text without what changes from run to run."""
    text = text.replace(folder, "FOLDER").replace(str(ROOT), "ROOT")
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


if __name__ == "__main__":
    main()
