"""The texts that a comparison is made on, as tokens; with each token's turn of conversation and the slices it is in.

Data come as JSONL (`lines` says in what form), or "builtin" for the set that ships with this package. Conversations
are rendered by the checkpoint's own chat template. Faulty lines are told all together, and nothing is left out in
silence: what had to be reshaped or cut is in `notes`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError, listed
from .lines import Line, LineFault, parse_line
from .render import Chat, Rendered, TemplateRefusal, chat_of
from .spans import rendered_spans, text_spans, token_masks
from .tokens import Encoded, encode

BUILTIN = "builtin"
BUILTIN_FILE = Path(__file__).parent / "data" / "builtin.jsonl"
_TOOL_FILE_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Document:
    """A text as tokens. Predicting tokens[t + 1] from position t belongs to turn and spans of token t + 1.

    tokens: (n,). turns: (n,), the conversation's turn, from 1: a user's message and all up to the next one; 0
    throughout in plain text. slices: of the whole document. spans: name -> (n,), token-level slices found in the text.
    """

    id: str
    tokens: NDArray[np.int32]
    turns: NDArray[np.int16]
    slices: tuple[str, ...]
    spans: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Documents:
    """All documents of a data file, its SHA-256, and what a reader of the results should know of how they were read."""

    documents: tuple[Document, ...]
    sha256: str
    notes: tuple[str, ...]


def read_documents(data: Path | str, tokenizer: Any, *, max_tokens: int | None = None) -> Documents:
    """Read JSONL, or the built-in set for "builtin", and tokenize it; longer documents are cut to `max_tokens`.

    tokenizer: as mlx-lm or transformers load it. Raises DataError with every faulty line.
    """
    path = BUILTIN_FILE if data == BUILTIN else Path(data)
    content = _read(path)
    problems: list[str] = []
    lines = list(_lines(path, content, problems))
    chat = chat_of(tokenizer)
    notes: Counter[str] = Counter()
    documents = []
    for line in lines:
        try:
            document = _document(line, tokenizer, chat, notes)
            documents.append(_cut(document, max_tokens, notes))
        except (LineFault, TemplateRefusal) as fault:
            problems.append(f"{path}, line {line.number}: {fault}")
    if problems:
        raise DataError(listed(problems))
    if not documents:
        raise DataError(f"{path}: holds no documents; one JSON table a line is expected")
    told = [f"{_count(n)}: {note}" for note, n in notes.most_common()]
    if not chat.has_template and any(line.messages for line in lines):
        told.insert(0, "the tokenizer has no chat template: conversations are written as plain text")
    return Documents(tuple(documents), sha256(content).hexdigest(), tuple(told))


def _count(n: int) -> str:
    return f"{n:,} document{'s' if n > 1 else ''}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a JSONL file is expected, or {BUILTIN}") from None


def _lines(path: Path, content: bytes, problems: list[str]) -> Iterator[Line]:
    """Parse all lines that are not blank; what is wrong goes to `problems`."""
    seen: dict[str, int] = {}
    named_tools = _tools_beside(path) if path != BUILTIN_FILE else {}
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            line = parse_line(raw.decode("utf-8-sig" if number == 1 else "utf-8"), number, named_tools)
        except UnicodeDecodeError as error:
            problems.append(f"{path}, line {number}: is no UTF-8 text (byte {error.start})")
        except LineFault as fault:
            problems.append(f"{path}, line {number}: {fault}")
        else:
            if line.id in seen:
                problems.append(f"{path}, line {number}: id {line.id!r} stands on line {seen[line.id]} already")
            seen.setdefault(line.id, number)
            yield line


def _tools_beside(path: Path) -> dict[str, Any]:
    """Lists of tools by name, from JSON tables beside the data whose file name speaks of tools."""
    named: dict[str, Any] = {}
    for beside in sorted(path.parent.glob("*tool*.json")):
        if beside.stat().st_size <= _TOOL_FILE_LIMIT:
            try:
                table = json.loads(beside.read_bytes())
            except (ValueError, OSError, RecursionError):
                continue
            if isinstance(table, dict):
                named |= {name: tools for name, tools in table.items() if isinstance(tools, list)}
    return named


def _document(line: Line, tokenizer: Any, chat: Chat, notes: Counter[str]) -> Document:
    """Tokenize a line. Raises LineFault, TemplateRefusal."""
    if line.messages is None:
        text, spans = line.text or "", text_spans(line.text or "")
        encoded = encode(tokenizer, text, special=True)
        turns = np.zeros(len(encoded.tokens), np.int16)
    else:
        rendered = chat.render(line.messages, line.tools)
        notes.update([rendered.note] if rendered.note else [])
        text, spans = rendered.text, rendered_spans(rendered, chat)
        encoded = encode(tokenizer, text, special=not chat.has_template)
        turns = _turns(rendered, chat, encoded)
    n = len(encoded.tokens)
    if n < 2:
        found = "is empty" if not text.strip() else f"makes {n} token{'s' * (n != 1)}"
        raise LineFault(f"the document {found}; at least 2 tokens are needed to predict one")
    return Document(line.id, encoded.tokens, turns, line.slices, token_masks(encoded, spans, len(text)))


def _turns(rendered: Rendered, chat: Chat, encoded: Encoded) -> NDArray[np.int16]:
    """Number turns by where users' words begin, and the markup that opens them; what precedes the first is turn 1."""
    starts = [piece.start for piece in rendered.pieces if piece.kind == "user"]
    opening = chat.user_opening
    begins = [s - len(opening) if rendered.text.endswith(opening, 0, s) else s for s in sorted(starts)[1:]]
    return (1 + np.searchsorted(begins, encoded.start, side="right")).astype(np.int16)


def _cut(document: Document, max_tokens: int | None, notes: Counter[str]) -> Document:
    if max_tokens is None or len(document.tokens) <= max_tokens:
        return document
    notes[f"cut to {max_tokens:,} tokens"] += 1
    spans = {name: mask[:max_tokens] for name, mask in document.spans.items()}
    return Document(
        document.id, document.tokens[:max_tokens], document.turns[:max_tokens], document.slices,
        {name: mask for name, mask in spans.items() if mask.any()},
    )  # fmt: skip
