"""Carry a kept step over to another vocabulary, so that training can go on after the store's words have changed.

    python benchmarks/tiny_moe/carry_over.py runs/old/step1250.pt runs/new

Rows of embedding and head, and what the optimizer knows of them, follow their tokens; a token that is new begins where
training from nothing would let it begin.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import shape
import torch
import train
import vocabulary


def tokens(folder: Path) -> dict[bytes, int]:
    """Return the ids of a folder's tokens, by the bytes that they stand for."""
    made = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    back = {character: byte for byte, character in vocabulary.characters().items()}
    spelled = {bytes(back[c] for c in piece): i for piece, i in made["model"]["vocab"].items()}
    return spelled | {each["content"].encode(): each["id"] for each in made["added_tokens"]}


def carry(kept: dict[str, Any], old: dict[bytes, int], new: dict[bytes, int]) -> dict[str, Any]:
    """Return a kept step in the new vocabulary."""
    pairs = [(old[token], i) for token, i in new.items() if token in old]
    source, target = (torch.tensor(side) for side in zip(*pairs, strict=True))
    fresh = shape.model().state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = fresh[name].clone()
        rows[target] = kept["model"][name][source]
        kept["model"][name] = rows
    for optimizer in kept["optimizers"]:
        for state in optimizer["state"].values():
            for name, value in state.items():
                if value.dim() == 2 and len(value) == vocabulary.SIZE:
                    state[name] = torch.zeros_like(value).index_copy(0, target, value[source])
    return kept


def main() -> None:
    """Read the command line and carry over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    vocabulary.write(given.folder, train.transcripts())
    old, new = tokens(given.step.parent), tokens(given.folder)
    torch.save(carry(torch.load(given.step), old, new), given.folder / given.step.name)
    print("new tokens:", [token.decode() for token in new if token not in old])


if __name__ == "__main__":
    main()
