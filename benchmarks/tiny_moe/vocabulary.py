"""The tiny model's tokenizer: bytes, the words that save most on the store's transcripts, and seven special tokens.

Words are added tokens, found from left to right, the longest first; all else is spelled in bytes, each digit a token of
its own, so that any UTF-8 text can be encoded. Merges are of no use: transformers builds the tokenizer of every
`qwen3_5_moe` anew, with Qwen's splitting and without `ignore_merges`, and added tokens alone survive that. A key of a
JSON object is one word with the punctuation around it, which halves the length of a tool call. So few entries make
many a name as new to the model as an id is, and leave the parameters to the experts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SIZE = 448
SPECIAL = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|im_end|>", "<tool_call>", "</tool_call>")
VISIBLE = ("<tool_call>", "</tool_call>")  # kept when special tokens are skipped, so that a call can be parsed
PIECES = r"""["}\]]*[,{\[]+"id":"[A-Z](?=\d)|["}\]]*[,{\[]+ ?"[a-z_]+": ?[\["{]*|\d| ?[\p{L}_]+| ?[^\s\p{L}\d_]+|\s+"""
TEMPLATE = Path(__file__).parents[2] / "mlxquant/evals/store/model/chat_template.jinja"


def characters() -> dict[int, str]:
    """The printable character that stands for each byte, as GPT-2's encoder has it: the space, byte 32, is "Ġ"."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)}


def words(texts: Iterable[str], n: int) -> list[str]:
    """Return the n pieces of text that save most tokens, most first; ties in the order of their characters."""
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECES), "isolated"), _bytes()])
    special = pre_tokenizers.Split(Regex("|".join(s.replace("|", r"\|") for s in SPECIAL)), "removed")
    pieces = pre_tokenizers.Sequence([special, split])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in pieces.pre_tokenize_str(text))
    savings = {piece: count * (len(piece) - 1) for piece, count in counts.items() if len(piece) > 1}
    return sorted(savings, key=lambda piece: (-savings[piece], piece))[:n]


def _bytes() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def tokenizer(texts: Iterable[str]) -> dict[str, Any]:
    """Make tokenizer.json from transcripts."""
    spelled = [c for b, c in characters().items() if b not in (0xC0, 0xC1) and b < 0xF5]  # no other byte is in UTF-8
    back = {c: b for b, c in characters().items()}
    added = [bytes(back[c] for c in word).decode() for word in words(texts, SIZE - len(SPECIAL) - len(spelled))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": token in SPECIAL and token not in VISIBLE}
            for i, token in enumerate((*added, *SPECIAL), len(spelled))
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(spelled)},
            "merges": [],
        },
    }


def ids() -> dict[str, int]:
    """Ids of the special tokens: the last of the vocabulary."""
    return {token: SIZE - len(SPECIAL) + i for i, token in enumerate(SPECIAL)}


def write(folder: Path, texts: Iterable[str]) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    special = ids()
    made = tokenizer(texts)
    folder.mkdir(parents=True, exist_ok=True)
    _dump(folder / "tokenizer.json", made)
    added = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in made["added_tokens"]}
    settings = {
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 16384,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
    }
    _dump(folder / "tokenizer_config.json", settings)
    ends = {"eos_token_id": special["<|im_end|>"], "pad_token_id": special["<|endoftext|>"]}
    _dump(folder / "generation_config.json", {"do_sample": False, **ends})
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
