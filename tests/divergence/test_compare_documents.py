"""A comparison's texts come out as the model would see them, every token in its turn and its slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.divergence.texts.documents import Document, Documents, read_documents
from mlxquant.divergence.texts.render import TemplateRefusal, chat_of
from mlxquant.divergence.texts.spans import json_values, rendered_spans, text_spans
from mlxquant.divergence.texts.tokens import decoded_offsets, encode
from mlxquant.errors import DataError
from tests.divergence.chat_templates import ALL

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "description": "Look up an order of the shop",
            "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}},
        },
    }
]


def call(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is order 17?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            call("get_order", '{"who": "Ann B", "order": 17}', id="a"),
            call("get_order", {"tags": ["x", "y"], "order": 18}, id="b"),
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": '{"state": "sent"}'},
    {"role": "tool", "tool_call_id": "b", "content": '{"state": "lost"}'},
    {"role": "assistant", "content": "It is sent."},
    {"role": "user", "content": "And 19?"},
    {"role": "assistant", "content": "", "tool_calls": [call("get_order", {"order": 19})]},
    {"role": "tool", "content": "{}"},
    {"role": "assistant", "content": "Gone, all 3."},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny models' byte-level tokenizer, as mlx-lm loads it."""
    from mlx_lm.tokenizer_utils import load

    from tests.checkpoints.tokenizer import write_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load(folder)


@pytest.fixture(scope="module")
def metaspace() -> Any:
    """A tokenizer with SentencePiece's way of writing spaces and unknown bytes, trained on a few lines."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    text = [json.dumps(message) for message in CONVERSATION] * 3
    made.train_from_iterator(text, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


class Templated:
    """A tokenizer under another chat template, as a checkpoint of another model would have it."""

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        # mlx-lm's wrapper has transformers' tokenizer under the name under which that has its own core
        self._tokenizer = tokenizer if hasattr(type(tokenizer), "is_fast") else tokenizer._tokenizer
        self._template = template
        self.has_chat_template = template is not None

    def apply_chat_template(self, messages: Any, **settings: Any) -> Any:
        return self._tokenizer.apply_chat_template(messages, chat_template=self._template, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def written(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def read(tmp_path: Path, tokenizer: Any) -> Callable[..., Documents]:
    return lambda *records, **settings: read_documents(
        written(tmp_path / "data.jsonl", *records), settings.pop("tokenizer", tokenizer), **settings
    )


def inside(document: Document, name: str, tokenizer: Any) -> str:
    """The text of a slice's tokens."""
    return str(tokenizer.decode(document.tokens[document.spans[name]].tolist()))


@pytest.mark.parametrize("name", ALL)
def test_every_manner_of_template_shows_each_call_with_its_markup_and_nothing_else_as_a_tool_call(name, tokenizer):
    from mlxquant.divergence.texts.documents import parse_messages

    chat = chat_of(Templated(tokenizer, ALL[name]))
    rendered = chat.render(parse_messages(CONVERSATION), TOOLS)
    spans = rendered_spans(rendered, chat)["in:tool_call"]
    calls = [rendered.text[start:end] for start, end in spans]
    assert len(calls) == 3
    for words, there in zip((["Ann B", "17"], ["tags", "18"], ["19"]), calls, strict=True):
        assert all(word in there for word in ["get_order", *words])
        for other in ("assistant<", "Assistant", "think", "sent", "And", "im_end", "eot_id", "TOOL_RESULTS", "user"):
            assert other not in there
    assert rendered.text.count("Where is order 17?") == rendered.text.count("Gone, all 3.") == 1


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("tagged", ""),
        ("elements", ""),
        ("nulls", ""),
        ("single", "message of its own"),
        ("brackets", "message of its own"),
        ("ids", "ids that tell"),
        ("strict", "as text; the system's words"),
    ],
)
def test_what_a_template_cannot_take_is_reshaped_no_further_than_needed_and_noted(name, note, read, tokenizer):
    documents = read({"messages": CONVERSATION, "tools": TOOLS}, tokenizer=Templated(tokenizer, ALL[name]))
    assert (len(documents.notes) == 1 and note in documents.notes[0]) if note else documents.notes == ()


@pytest.mark.parametrize("name", ALL)
def test_a_turn_begins_with_what_opens_the_users_message(name, read, tokenizer):
    templated = Templated(tokenizer, ALL[name])
    (document,) = read({"messages": CONVERSATION, "tools": TOOLS}, tokenizer=templated).documents
    first, second = (tokenizer.decode(document.tokens[document.turns == turn].tolist()) for turn in (1, 2))
    assert set(document.turns.tolist()) == {1, 2} and (np.diff(document.turns) >= 0).all()
    assert "Be brief." in first and first.rstrip().endswith(("sent.", ">")) and "And 19?" not in first
    assert second.index("And 19?") < 50 and "Gone, all 3." in second and "sent." not in second


def test_words_of_the_assistant_are_a_slice_with_their_calls_and_the_token_that_ends_them(read, tokenizer):
    templated = Templated(tokenizer, ALL["tagged"])
    (document,) = read({"messages": CONVERSATION, "tools": TOOLS}, tokenizer=templated).documents
    said = inside(document, "in:assistant", tokenizer)
    assert said.count("<|im_end|>") == 4 and "It is sent.<|im_end|>" in said and said.count("get_order") == 3
    assert "Where" not in said and "state" not in said and "im_start" not in said


def test_schemas_of_tools_are_a_slice_apart_from_json(read, tokenizer):
    templated = Templated(tokenizer, ALL["tagged"])
    (document,) = read({"messages": CONVERSATION, "tools": TOOLS}, tokenizer=templated).documents
    assert inside(document, "in:tool_schema", tokenizer).count("Look up an order") == 1
    found = inside(document, "in:json", tokenizer)
    assert "Look up" not in found and found.count('"state"') == 2 and found.count('"arguments"') == 3


def test_a_conversation_that_the_assistant_opens_gets_a_user_first_where_the_template_wants_one(read, tokenizer):
    messages = [{"role": "assistant", "content": "May I help?"}, {"role": "user", "content": "No."}]
    strict = read({"messages": messages}, tokenizer=Templated(tokenizer, ALL["strict"]))
    assert "'Hello.' if need be" in strict.notes[0]
    assert read({"messages": messages}, tokenizer=Templated(tokenizer, ALL["elements"])).notes == ()


def test_contents_that_a_template_strips_or_that_repeat_each_other_stand_where_they_stand(tokenizer):
    messages = [
        {"role": role, "content": text}
        for role, text in [("user", "yes"), ("assistant", "  yes \n"), ("user", "yes"), ("assistant", "yes")]
    ]
    rendered = chat_of(Templated(tokenizer, ALL["strict"])).render(messages)
    starts = [piece.start for piece in rendered.pieces]
    assert [rendered.text[s - 10 : s + 3] for s in starts] == [
        "turn>user\nyes", "assistant\nyes", "turn>user\nyes", "assistant\nyes",
    ]  # fmt: skip


def test_a_template_that_looks_at_contents_is_served_without_marks(tokenizer):
    nosy = "{% for m in messages %}{{ m.content | length }}:{{ m.content }}\n{% endfor %}"
    rendered = chat_of(Templated(tokenizer, nosy)).render([{"role": "user", "content": "abc"}])
    assert rendered.text == "3:abc\n" and [(p.start, p.end) for p in rendered.pieces] == [(2, 5)]


def test_a_conversation_that_no_form_gets_through_is_refused_in_the_templates_words(read, tokenizer):
    moody = Templated(tokenizer, "{{ raise_exception('Not on a Sunday.') }}")
    with pytest.raises(DataError, match=r"line 1: the chat template cannot .*: Not on a Sunday\."):
        read({"messages": CONVERSATION}, tokenizer=moody)
    with pytest.raises(TemplateRefusal, match="drops messages"):
        chat_of(Templated(tokenizer, "same")).render([{"role": "user", "content": "a"}])


def test_without_a_chat_template_conversations_are_plain_text_and_a_note_says_so(read, tokenizer):
    documents = read({"messages": CONVERSATION, "tools": TOOLS}, tokenizer=Templated(tokenizer, None))
    text = tokenizer.decode(documents.documents[0].tokens.tolist())
    assert "User: Where is order 17?\n\nAssistant: <tool_call>" in text and '"parameters"' in text
    assert "no chat template" in documents.notes[0]


def test_plain_text_has_no_turns_and_its_tool_calls_are_found_by_their_markup(read, tokenizer):
    text = 'Say <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call> or [TOOL_CALLS] [{"name": "g"}]\nThen 12.5.'
    (document,) = read({"text": text}).documents
    assert not document.turns.any()
    assert inside(document, "in:numeric", tokenizer).strip() == "12.5"
    found = inside(document, "in:tool_call", tokenizer)
    assert '"f"' in found and '"g"' in found and "Say" not in found and "Then" not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('so {"a": [1, 2]} and {"b": 3}', ['{"a": [1, 2]}', '{"b": 3}']),
        ("see [1] and {} and [] and [x]", []),
        ("[1, 2] is a list", ["[1, 2]"]),
        ('if (x) { return {"k": "}"}; }', ['{"k": "}"}']),
        ('broken {"a": {"b": 1}', ['{"b": 1}']),
        ("[" * 5000, []),
    ],
)
def test_json_is_what_parses(text, expected):
    assert [text[start:end] for (start, end), _ in json_values(text)] == expected


@pytest.mark.parametrize("which", ["tokenizer", "metaspace"])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_tokens_cover_their_text_in_order(which, text, request):
    encoded = encode(request.getfixturevalue(which), text, special=False)
    assert (encoded.start <= encoded.end).all()
    assert (encoded.start[1:] <= np.maximum.accumulate(encoded.end)[:-1]).all()
    assert len(encoded.end) == 0 or encoded.end.max() <= len(text)


@pytest.mark.parametrize("which", ["tokenizer", "metaspace"])
def test_offsets_found_by_decoding_are_those_that_a_fast_tokenizer_gives(which, request):
    given = request.getfixturevalue(which)
    text = "Order 17 of Ann B, größer 你好 🙂 than  two\nlines  of é."
    encoded = encode(given, text, special=False)
    pairs = decoded_offsets(given, encoded.tokens.tolist(), text)
    digits = [m for m in range(len(text)) if text[m].isdigit()]
    for at in digits:
        found = (pairs[:, 0] <= at) & (at < pairs[:, 1])
        assert (found == ((encoded.start <= at) & (at < encoded.end))).all() and found.any()
    assert pairs[-1, 1] == len(text)


def test_a_class_that_rewrites_text_before_tokenizing_is_matched_by_decoding(tokenizer):
    class Rewriting(Templated):
        def encode(self, text: str, **settings: Any) -> Any:
            return self._tokenizer.encode(text.replace("\n", "  "), **settings)

        def __call__(self, text: str, **settings: Any) -> Any:
            return self._tokenizer(text, **settings)

        is_fast = True

    text = "one\ntwo 345 six"
    encoded = encode(Rewriting(tokenizer, None), text, special=False)
    spans = text_spans(text)["in:numeric"]
    touched = [tokenizer.decode([t]) for t, s, e in zip(encoded.tokens, encoded.start, encoded.end, strict=True)
               if s < spans[0][1] and e > spans[0][0]]  # fmt: skip
    assert "".join(touched).strip() == "345"


def test_a_beginning_token_belongs_to_plain_text_as_the_tokenizer_adds_it(tmp_path, metaspace):
    from tokenizers.processors import TemplateProcessing

    metaspace.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", metaspace.bos_token_id)]
    )
    path = written(tmp_path / "d.jsonl", {"text": "17 orders"}, {"messages": CONVERSATION[1:2]})
    plain, chat = read_documents(path, Templated(metaspace, "<s>{{ messages[0].content }}")).documents
    assert plain.tokens[0] == chat.tokens[0] == metaspace.bos_token_id
    assert chat.tokens[1] != metaspace.bos_token_id
    assert not plain.spans["in:numeric"][0] and plain.spans["in:numeric"].any()


BAD = {
    "no json": "is no JSON",
    '["a"]': "must be a JSON table, found a list",
    '{"prompt": 1}': 'must have either "messages" or "text", found prompt',
    '{"text": 7}': '"text" must be text, found a number',
    '{"text": "a", "messages": []}': "must have either",
    '{"messages": []}': "must be a list of messages, found an empty list",
    '{"messages": [{"role": "robot", "content": "x"}]}': 'message 1: "role" must be one of system, ',
    '{"messages": [{"role": "user", "content": 3}]}': 'message 1: "content" must be text, null or',
    '{"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}': "message 1: a tool call must have",
    '{"messages": [{"role": "user", "content": "x"}], "tools": "shop"}': '"tools" names "shop", but no JSON file',
    '{"text": "fine", "slices": [1]}': '"slices" must be a list of names',
    '{"text": "fine", "id": null}': '"id" must be text, found nothing',
    '{"text": ""}': "the document is empty",
    '{"text": "a"}': "the document makes 1 token; at least 2",
}


def test_all_faulty_lines_are_told_together_each_with_its_number(tmp_path, tokenizer):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(["", *BAD, '{"text": "good one"}', '{"text": "x y", "id": "line-16"}']))
    with pytest.raises(DataError) as caught:
        read_documents(path, tokenizer)
    told = str(caught.value).splitlines()
    for number, expected in enumerate(BAD.values(), 2):
        (one,) = [line for line in told if f"line {number}:" in line]
        assert expected in one and str(path) in one
    assert any("line 17: id 'line-16' stands on line 16 already" in line for line in told)
    assert len(told) == len(BAD) + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no documents"), (b'{"text": "\xff"}', r"line 1: is no UTF-8 text \(byte 10\)")],
)
def test_a_file_of_nothing_or_of_other_bytes_is_told(content, message, tmp_path, tokenizer):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_documents(tmp_path / "d.jsonl", tokenizer)
    with pytest.raises(DataError, match="cannot be read"):
        read_documents(tmp_path / "none.jsonl", tokenizer)


def test_tools_may_be_named_in_a_file_beside_the_data(tmp_path, read, tokenizer):
    (tmp_path / "my_tools.json").write_text(json.dumps({"shop": TOOLS}))
    (document,) = read({"messages": CONVERSATION, "tools": "shop"}).documents
    assert "Look up an order" in tokenizer.decode(document.tokens.tolist())


def test_longer_documents_are_cut_and_that_is_noted(read):
    documents = read({"text": "word " * 50, "slices": ["a", "a"]}, {"text": "short one"}, max_tokens=20)
    long, short = documents.documents
    assert len(long.tokens) == len(long.turns) == 20 and len(short.tokens) < 20
    assert documents.notes == ("1 document: cut to 20 tokens",) and long.slices == ("a",)


def test_arguments_that_do_not_parse_stay_as_they_were_said(read, tokenizer):
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [call("f", '{"a": ')]}]
    (document,) = read({"messages": messages}, tokenizer=Templated(tokenizer, ALL["tagged"])).documents
    assert '"arguments": {"a":' in inside(document, "in:tool_call", tokenizer)


@pytest.mark.slow
def test_real_conversations_load_with_and_without_templates(shared):
    from mlx_lm.tokenizer_utils import load

    data = shared / "reference" / "prompts" / "agentic_calibration.jsonl"
    base = load(shared / "checkpoints" / "qwen3_5_moe")
    turns = set()
    for template in [None, ALL["tagged"], ALL["single"], ALL["channels"]]:
        documents = read_documents(data, Templated(base, template) if template else base).documents
        assert len(documents) == 430
        assert sum("in:tool_call" in d.spans for d in documents) >= 89
        turns.add(sum(int(d.turns.max()) for d in documents))
    assert len(turns) == 1
