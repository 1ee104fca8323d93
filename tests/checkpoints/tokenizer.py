"""A tokenizer of 512 entries, written down rather than trained: byte-level BPE with Qwen's special tokens.

256 bytes, 243 merges that spell common words left to right, 13 special tokens. It is the same in every
version of `tokenizers`, encodes any text, and its chat template takes tools. It compresses badly on purpose:
nothing here depends on how well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
SIZE = 512
# Qwen keeps these visible when special tokens are skipped, so that a tool call can be parsed from text.
_VISIBLE = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_WORDS = (
    " the of and to in is that it for was on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about "
    "out many then them these so some her would make like him into time has look two more write go see number "
    "no way could people my than first water been call who its now find long down day did get come made may part "
    "over new sound take only little work know place year live me back give most very after thing our just name"
)


def token_ids() -> dict[str, int]:
    """Ids of the special tokens: the last of the vocabulary, in the order of `SPECIAL`."""
    return {token: SIZE - len(SPECIAL) + i for i, token in enumerate(SPECIAL)}


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    ids = token_ids()
    _dump(folder / "tokenizer.json", _tokenizer())
    _dump(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in _added()},
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "model_max_length": 262144,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    _dump(
        folder / "generation_config.json",
        {
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
            "temperature": 0.6,
            "top_k": 20,
            "top_p": 0.95,
            "transformers_version": "4.57.0",
        },
    )
    template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    pieces, merges = _vocabulary()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
        },
    }


def _vocabulary() -> tuple[list[str], list[list[str]]]:
    pieces = list(_byte_characters())
    merges: list[list[str]] = []
    known = set(pieces)
    for word in _WORDS.split():
        piece = pieces[ord(" ")]
        for letter in word:
            if piece + letter not in known and len(pieces) < SIZE - len(SPECIAL):
                merges.append([piece, letter])
                pieces.append(piece + letter)
                known.add(piece + letter)
            piece += letter
    return pieces, merges


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte, as GPT-2's encoder has it.

    Printable bytes stand for themselves, the rest for U+0100 and up: the space, byte 32, is "Ġ".
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)]


def _added() -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": i, "content": t, **flags, "special": t not in _VISIBLE} for t, i in token_ids().items()]


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
