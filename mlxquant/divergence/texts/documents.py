"""The texts that a comparison is made on, as tokens; with each token's turn of conversation and the slices it is in.

Data come as JSONL, or "builtin" for the set that ships with this package. Conversations are rendered by the
checkpoint's own chat template (`render`). All faulty lines are reported together, and nothing is left out in silence:
what had to be reshaped or cut is in `notes`.

A line is a JSON object with `messages` (OpenAI's form: role, content, tool_calls) or `text`, and optionally `tools`
(a list of schemas, or the name of one in a file of them), `slices` and `id`. Other keys are ignored. Conversations
come out in one form: contents are text, arguments are parsed, every call has an id.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ...builds.read.templates import TemplateFailure
from ...disk.files import read_regular
from ...errors import DataError
from ...words.text import listed
from .marks import Message
from .render import Chat, Rendered, TemplateRefusal, chat_of, plain_chat
from .spans import rendered_spans, text_spans, token_masks
from .tokens import Encoded, encode

# --- lines ---


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
          "function": "tool"}  # fmt: skip
_WHAT = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


@dataclass(frozen=True, slots=True)
class DataLine:
    """One document as its line has it: either `messages` or `text`."""

    number: int
    id: str
    messages: list[Message] | None
    text: str | None
    tools: list[dict[str, Any]]
    slices: tuple[str, ...]

    @property
    def content_hash(self) -> str:
        """XXH3-128 of messages, text and tools, 32 hex digits; id and slices do not change it."""
        content = {"messages": self.messages, "text": self.text, "tools": self.tools}
        return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())

    def as_json(self) -> str:
        """The document as a line of its own, which reads as the same document beside any other files."""
        content = {"text": self.text} if self.messages is None else {"messages": self.messages}
        more = {"tools": self.tools, "slices": list(self.slices)}
        return json.dumps({"id": self.id, **content, **{key: value for key, value in more.items() if value}})


class LineFault(ValueError):
    """What is wrong with a line: expected, found."""


def parse_line(raw: str, number: int, named_tools: Mapping[str, Any]) -> DataLine:
    """Read one line. Raises LineFault."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LineFault(f"is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise LineFault(f"must be a JSON table, found {what(record)}")
    if ("messages" in record) == ("text" in record):
        keys = ", ".join(list(record)[:6]) or "no keys"
        raise LineFault(f'must have either "messages" or "text", found {keys}')
    text = record.get("text")
    if "text" in record and not isinstance(text, str):
        raise LineFault(f'"text" must be text, found {what(text)}')
    messages = None if "text" in record else parse_messages(record["messages"])
    name = record.get("id", f"line-{number}")
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise LineFault(f'"id" must be text, found {what(name)}')
    return DataLine(number, str(name), messages, text, _tools(record.get("tools"), named_tools), _slices(record))


def parse_messages(value: Any) -> list[Message]:
    """Check a conversation and bring it into one form. Raises LineFault."""
    if not isinstance(value, list) or not value:
        raise LineFault(f'"messages" must be a list of messages, found {what(value)}')
    messages: list[Message] = []
    calls = 0
    for i, message in enumerate(value):
        try:
            messages.append(_message(message, calls))
        except LineFault as fault:
            raise LineFault(f"message {i + 1}: {fault}") from None
        calls += len(messages[-1].get("tool_calls", ()))
    return messages


def _message(message: Any, calls: int) -> Message:
    if not isinstance(message, dict):
        raise LineFault(f"must be a table, found {what(message)}")
    role = _ROLES.get(message["role"]) if isinstance(message.get("role"), str) else None
    if role is None:
        raise LineFault(f'"role" must be one of {", ".join(_ROLES)}; found {json.dumps(message.get("role"))}')
    parsed = {**message, "role": role, "content": _content(message.get("content"))}
    calls_field = message.get("tool_calls")
    parsed.pop("tool_calls", None)
    if calls_field:
        if not isinstance(calls_field, list):
            raise LineFault(f'"tool_calls" must be a list, found {what(calls_field)}')
        parsed["tool_calls"] = [_call(call, calls + n) for n, call in enumerate(calls_field)]
    return parsed


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else None
    if parts is None or not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in parts):
        raise LineFault(f'"content" must be text, null or a list of text parts, found {what(content)}')
    return "".join(part["text"] for part in parts)


def _call(call: Any, number: int) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise LineFault(f'a tool call must have "function" with "name" and "arguments", found {json.dumps(call)[:80]}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):  # as the API writes them; what does not parse was said so, and stays as it is
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif arguments is None:
        arguments = {}
    elif not isinstance(arguments, dict):
        raise LineFault(f"arguments of a call must be a table or JSON text, found {what(arguments)}")
    call_id = call.get("id")
    name = call_id if isinstance(call_id, str) and call_id else f"call{number:05d}"
    return {"id": name, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tools(tools: Any, named: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(tools, str):
        if tools not in named:
            raise LineFault(
                f'"tools" names {json.dumps(tools)}, but no JSON file beside this one, with "tool" in its name, has it'
            )
        tools = named[tools]
    if not isinstance(tools, (list, type(None))):
        raise LineFault(f'"tools" must be a list of schemas or the name of one, found {what(tools)}')
    schemas = []
    for tool in tools or []:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise LineFault(f'a tool must have "function" with "name" and "parameters", found {json.dumps(tool)[:80]}')
        schemas.append(tool if "function" in tool else {"type": "function", "function": function})
    return schemas


def _slices(record: Mapping[str, Any]) -> tuple[str, ...]:
    slices = record.get("slices", [])
    slices = [slices] if isinstance(slices, str) else slices
    if not isinstance(slices, list) or not all(isinstance(name, str) and name for name in slices):
        raise LineFault(f'"slices" must be a list of names, found {json.dumps(slices)[:80]}')
    return tuple(dict.fromkeys(slices))


def what(value: Any) -> str:
    """Name a JSON value's kind.

    >>> what([]), what(None)
    ('an empty list', 'nothing')
    """
    if value is None:
        return "nothing"
    return _WHAT.get(type(value), "something else") if value != [] else "an empty list"


# --- documents ---


BUILTIN = "builtin"
BUILTIN_FILE = Path(__file__).parent / "data" / "builtin.jsonl"
_TOOL_FILE_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Document:
    """A text as tokens. Predicting tokens[t + 1] from position t belongs to turn and spans of token t + 1.

    tokens: (n,). turns: (n,), the conversation's turn, from 1: a user's message and all up to the next one; 0
    throughout in plain text. slices: of the whole document. spans: name -> (n,), token-level slices found in the text.
    content_hash: of what its line says (see `DataLine.content_hash`), whatever it was cut to.
    """

    id: str
    tokens: NDArray[np.int32]
    turns: NDArray[np.int16]
    slices: tuple[str, ...]
    spans: Mapping[str, NDArray[np.bool_]]
    content_hash: str = ""


@dataclass(frozen=True, slots=True)
class Documents:
    """All documents of a data file, its SHA-256, and what a reader of the results should know of how they were read."""

    documents: tuple[Document, ...]
    sha256: str
    notes: tuple[str, ...]

    def described(self, name: str) -> dict[str, Any]:
        """What a calibration file and a manifest say of documents that calibrated, under `name`."""
        return {
            "name": name,
            "sha256": self.sha256,
            "count": len(self.documents),
            "tokens": sum(len(d.tokens) for d in self.documents),
            "xxh3_128": [d.content_hash for d in self.documents],
        }


def read_documents(data: Path | str, tokenizer: Any, *, max_tokens: int | None = None) -> Documents:
    """Read JSONL, or the built-in set for "builtin", and tokenize it; longer documents are cut to `max_tokens`.

    tokenizer: as mlx-lm or transformers load it. Raises DataError with every faulty line.
    """
    path, problems = _place(data), list[str]()
    content = _read(path)
    lines = list(_lines(path, content, problems))
    talks = any(line.messages for line in lines)
    chat = chat_of(tokenizer) if talks else plain_chat()
    notes: Counter[str] = Counter()
    documents = []
    for line in lines:
        try:
            document = _document(line, tokenizer, chat, notes)
            documents.append(_cut(document, max_tokens, notes))
        except (LineFault, TemplateRefusal, TemplateFailure) as fault:
            problems.append(f"{path}, line {line.number}: {fault}")
    if problems:
        raise DataError(listed(problems))
    if not documents:
        raise DataError(f"{path}: holds no documents; one JSON table a line is expected")
    remarks = [f"{_count(n)}: {note}" for note, n in notes.most_common()]
    if talks and not chat.has_template:
        remarks.insert(0, "the tokenizer has no chat template: conversations are written as plain text")
    return Documents(tuple(documents), sha256(content).hexdigest(), tuple(remarks))


def read_lines(data: Path | str) -> tuple[list[DataLine], str]:
    """Read JSONL, or the built-in set, as it is before a tokenizer sees it; gives the file's SHA-256, too.

    Raises DataError with every faulty line.
    """
    path, problems = _place(data), list[str]()
    content = _read(path)
    lines = list(_lines(path, content, problems))
    if problems:
        raise DataError(listed(problems))
    return lines, sha256(content).hexdigest()


def _place(data: Path | str) -> Path:
    return BUILTIN_FILE if data == BUILTIN else Path(data)


def _count(n: int) -> str:
    return f"{n:,} document{'s' if n > 1 else ''}"


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a JSONL file is expected, or {BUILTIN}") from None


def _lines(path: Path, content: bytes, problems: list[str]) -> Iterator[DataLine]:
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
                table = json.loads(read_regular(beside, _TOOL_FILE_LIMIT))
            except (ValueError, OSError, RecursionError):
                continue
            if isinstance(table, dict):
                named |= {name: tools for name, tools in table.items() if isinstance(tools, list)}
    return named


def _document(line: DataLine, tokenizer: Any, chat: Chat, notes: Counter[str]) -> Document:
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
        size = "is empty" if not text.strip() else f"makes {n} token{'s' * (n != 1)}"
        raise LineFault(f"the document {size}; at least 2 tokens are needed to predict one")
    masks = token_masks(encoded, spans, len(text))
    return Document(line.id, encoded.tokens, turns, line.slices, masks, line.content_hash)


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
    return replace(
        document,
        tokens=document.tokens[:max_tokens],
        turns=document.turns[:max_tokens],
        spans={name: mask for name, mask in spans.items() if mask.any()},
    )
