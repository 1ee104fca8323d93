"""Write the text model's calibration and judging documents, as `calibrate` and `compare` take them.

    python benchmarks/text_moe/documents.py runs/text -o DATA [--count 48] [--characters 2000]

The first documents of each part by hash, the beginning of each, in DATA/calibrate.jsonl and DATA/judge.jsonl: nothing
in them was trained on, and no document is in both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--characters", type=int, default=2000)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    documents = [json.loads(line) for line in (chosen.folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    documents.sort(key=lambda document: document["sha256"])
    for part in ("calibrate", "judge"):
        own = [document for document in documents if document["part"] == part][: chosen.count]
        lines = [
            json.dumps({"id": d["sha256"][:12], "text": d["text"][: chosen.characters], "slices": [d["package"]]})
            for d in own
        ]
        (chosen.out / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
