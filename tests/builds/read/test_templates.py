"""Chat templates are rendered as transformers does it, and within bounds: whatever they do, it ends and is told."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlxquant.builds.read import templates
from mlxquant.builds.read.templates import BoundedTemplate, Renderer, TemplateFailure
from mlxquant.cli import main
from mlxquant.errors import SourceError
from tests.divergence.chat_templates import ALL
from tests.support.builds import build

ROOM = 256 << 20
ASKED = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße \U000f0001 {{ 1 }} \\ 'q' \"q\"?"},
]
CALL = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"at": [1, None, 2.5, "ä"]}}}
CALLED = [
    {"role": "user", "content": "Look."}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "nothing", "tool_call_id": "call00001"}, {"role": "assistant", "content": "So."},
]  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "It looks.", "parameters": {"type": "object"}}}
]


def tokenizer_with(template: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?")
    tokenizer.chat_template = template
    return tokenizer


def bounded(template: Any, seconds: float = 1.0) -> BoundedTemplate:
    return BoundedTemplate(tokenizer_with(template), Renderer("model", seconds, ROOM))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    """Give a process for all that do not end it."""
    return Renderer("model", 10.0, ROOM)


SHOWN = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.tool_calls %}{{ m | tojson }}{% endif %}"
    "{% generation %}{{ eos_token }}{% endgeneration %}\n{% endfor %}{{ tools }}{{ flag }}"
    "{% if add_generation_prompt %}>{% endif %}{{ strftime_now('%Y') }}"
)


@pytest.mark.parametrize("template", [SHOWN, *ALL.values()])
@pytest.mark.parametrize("messages", [ASKED, CALLED])
def test_a_template_gives_what_transformers_gives(
    template: str, messages: list[dict[str, Any]], renderer: Renderer
) -> None:
    tokenizer = tokenizer_with(template)
    render = BoundedTemplate(tokenizer, renderer)
    arguments: dict[str, Any] = {"tools": TOOLS, "add_generation_prompt": True, "flag": [1, "ä"]}
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except Exception as error:  # noqa: BLE001 - as transformers lets it through
        with pytest.raises(TemplateFailure) as failure:
            render(messages, tokenize=False, **arguments)
        assert not failure.value.overrun and str(error).split("\n")[0][:40] in str(failure.value)
    else:
        assert render(messages, tokenize=False, **arguments) == text
        tokens = tokenizer.apply_chat_template(messages, return_dict=False, **arguments)
        assert render(messages, return_dict=False, **arguments) == tokens
        assert render(messages, **arguments)["input_ids"] == tokens


def test_of_several_templates_the_same_one_is_taken(renderer: Renderer) -> None:
    render = BoundedTemplate(tokenizer_with({"default": "plain", "tool_use": "tools"}), renderer)
    assert render(ASKED, tokenize=False) == "plain"
    assert render(ASKED, tools=TOOLS, tokenize=False) == "tools"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ 'a' * 10 ** 30 }}", "int"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself"),
        ("{{ range(10 ** 9) | list }}", "100000"),
        ("{{ messages.append(1) }}", "append"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
        ("{{ messages[0]['nowhere'].deeper }}", "nowhere"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('one\nline\x1b[31m') }}", "one line"),
        ("{{ raise_exception('long ' * 10000) }}", "long long"),
    ],
)  # fmt: skip
def test_a_template_that_refuses_or_fails_says_so_in_one_short_line(
    template: str, reason: str, renderer: Renderer
) -> None:
    with pytest.raises(TemplateFailure, match=reason) as failure:
        BoundedTemplate(tokenizer_with(template), renderer)(ASKED, tokenize=False)
    assert not failure.value.overrun
    assert str(failure.value).startswith("model: its chat template fails")
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 500


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param(LOOP, "renders for more than 1 s", marks=pytest.mark.slow),
        (
            "{% set n = 10 ** (10 ** 8) %}{{ n % 7 }}",
            "renders for more than 1 s",
        ),  # within C, which no signal handler ends
        ("{{ 'a' * 10 ** 10 }}", "256.00 MiB of memory"),
        pytest.param("{{ ['a' * 10 ** 6] * 10 ** 9 }}", "256.00 MiB of memory", marks=pytest.mark.slow),
        pytest.param("{{ '%99999999999d' % 1 }}", "memory|fails", marks=pytest.mark.slow),
        pytest.param("{{ 'a' | center(10 ** 10) }}", "memory", marks=pytest.mark.slow),
        ("{% for a in range(9999) %}{{ 'a' * 10 ** 6 }}{% endfor %}", "memory"),
        ("{% for a in range(17) %}{{ 'a' * 2 ** 20 }}{% endfor %}", "more than 16,777,216 characters"),
    ],
)
def test_a_template_that_leaves_a_bound_is_ended_and_says_which(template: str, reason: str) -> None:
    render = bounded(template)
    began = time.monotonic()
    with pytest.raises(TemplateFailure, match=reason):
        render(ASKED, tokenize=False)
    assert time.monotonic() - began < 60  # most of it the start of the process, on a busy machine


@pytest.mark.slow
def test_the_next_conversation_gets_a_new_process_and_the_third_overrun_ends_it() -> None:
    render = bounded("{% if messages[0].content == 'loop' %}" + LOOP + "{% else %}fine{% endif %}", seconds=0.5)
    loop, fine = [{"role": "user", "content": "loop"}], [{"role": "user", "content": "go"}]
    for _ in range(2):
        with pytest.raises(TemplateFailure) as failure:
            render(loop, tokenize=False)
        assert failure.value.overrun
        assert render(fine, tokenize=False) == "fine"
    with pytest.raises(SourceError, match="as 2 times before"):
        render(loop, tokenize=False)


def test_memory_is_bounded_where_the_system_does_not_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_resident", lambda _: 3 * ROOM)  # as `ps` says on macOS
    with pytest.raises(TemplateFailure, match="memory"):
        bounded(LOOP, seconds=20)(ASKED, tokenize=False)


def test_ps_tells_what_a_process_has() -> None:
    if shutil.which("ps") is None:
        pytest.skip("no ps here")
    assert templates._resident(os.getpid()) > 1 << 20
    assert templates._resident(2**22 - 1) == 0


def test_the_process_has_no_key_and_can_write_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    render = bounded("fine")
    assert render(ASKED, tokenize=False) == "fine"
    process = render._renderer._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ")
    if environment.exists():
        assert b"hf_secret" not in environment.read_bytes()
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        assert next(line.split()[3] for line in limits if line.startswith("Max file size")) == "0"
    del render
    assert process.poll() is not None, "it ends with the tokenizer"


# --- the commands ---


@pytest.fixture(scope="module")
def pair(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give a source and a build of it, whose templates a test may replace."""
    folder = tmp_path_factory.mktemp("templates")
    shutil.copytree(tiny("mixtral"), folder / "source")
    build(tiny("mixtral"), folder / "built")
    lines = [
        {"id": "plain", "messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "Gone."}]},
        {"id": "odd", "messages": [{"role": "user", "content": "odd"}, {"role": "assistant", "content": "b"}]},
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = [
        {"id": name, "messages": [{"role": "user", "content": name}], "max_tokens": 2, "score": {"kind": "complete"}}
        for name in ("plain", "odd")
    ]
    (folder / "suite.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    return folder / "source", folder / "built"


def run(pair: tuple[Path, Path], command: str, template: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setattr(templates, "SECONDS", 1.0)
    for folder in pair:
        (folder / "chat_template.jinja").write_text(template)
    words = {
        "eval": f"eval --baseline {pair[1]} --candidate {pair[1]} --suite {pair[0].parent}/suite.jsonl",
        "compare": f"compare {pair[0]} -r gates-8bit --unaligned keep --data {pair[0].parent}/data.jsonl --no-own",
    }
    return CliRunner().invoke(main, words[command].split())


PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("command", "template"),
    [
        ("eval", "{{ 1 // 0 }}"),
        pytest.param("compare", LOOP, marks=pytest.mark.slow),
        pytest.param("eval", LOOP, marks=pytest.mark.slow),
        pytest.param("compare", "{{ 1 // 0 }}", marks=pytest.mark.slow),
    ],
)
def test_a_template_that_never_works_ends_a_command_with_exit_3_and_no_traceback(
    pair: tuple[Path, Path], command: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(pair, command, template, monkeypatch)
    assert done.exit_code == 3 and isinstance(done.exception, SystemExit), done.output
    assert "its chat template" in done.output or "the chat template cannot render" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("odd", [LOOP, pytest.param("{{ 1 // 0 }}", marks=pytest.mark.slow)])
def test_a_template_that_fails_for_one_document_names_its_line(
    pair: tuple[Path, Path], odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% if messages[0].content == 'odd' or 'odd' in messages[0].content %}" + odd + "{% endif %}" + PLAIN
    done = run(pair, "compare", template, monkeypatch)
    assert done.exit_code == 3 and "data.jsonl, line 2: " in done.output and "line 1" not in done.output


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["{{ 1 // 0 }}", pytest.param(LOOP, marks=pytest.mark.slow)])
def test_a_template_that_fails_for_one_item_is_that_items_error(
    pair: tuple[Path, Path], odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(pair, "eval", "{% if messages[0].content == 'odd' %}" + odd + "{% endif %}" + PLAIN, monkeypatch)
    assert isinstance(done.exception, SystemExit | None), done.output
    assert "1 of 2 trials had no answer" in done.output and "its chat template" in done.output
