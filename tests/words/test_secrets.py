"""Secrets leave in no form, and short ones take no ordinary words with them."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from mlxquant.errors import UsageError
from mlxquant.words.secrets import REDACTED, redact, redacted, register, register_url, register_words, secret_from

KEY = "sk-SECRET/key+é\"1'&"
FORMS = {
    "as it is": KEY,
    "in capitals": KEY.upper(),
    "JSON": json.dumps({"a": KEY}),
    "JSON as UTF-8": json.dumps({"a": KEY}, ensure_ascii=False),
    "JSON in JSON": json.dumps(json.dumps({"a": KEY})),
    "Python": repr([KEY]),
    "ASCII": ascii(KEY),
    "an address": f"http://h/?k={quote(KEY)}",
    "a whole address": quote(f"http://h/?k={KEY}", safe=""),
    "a form": quote_plus(KEY),
    "an address in an address": quote(quote(f"http://h/?k={KEY}", safe=""), safe=""),
    "every sign of an address": "".join(f"%{byte:02X}" for byte in KEY.encode()),
    "JSON of PHP": KEY.replace("/", "\\/"),
    "HTML": html.escape(KEY),
    "hex": f"0x{KEY.encode().hex()}",
    "hex in capitals": KEY.encode().hex().upper(),
    "read as latin-1": KEY.encode().decode("latin-1"),
    **{f"base64 after {n}": base64.b64encode(b"user:"[:n] + KEY.encode() + b"!").decode() for n in range(5)},
    "base64 of addresses": base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_taken_out_in_every_form_that_programs_write(form):
    register(KEY)
    text = redact(f"before {FORMS[form]} after")
    assert REDACTED in text and text.startswith("before ") and text.endswith(" after")
    for part in ("SECRET", "U0VDUkVU", "534543524554", "%53%45%43"):
        assert part.lower() not in text.lower()


@pytest.mark.parametrize("around", ["{}\n", "  {}", "Bearer {}", "{} {}\r\n"])
def test_a_secret_with_white_space_around_it_is_taken_out_without_it(around):
    register(around.format("sk-SECRETKEY", "sk-SECOND-KEY"))
    text = redact("you sent sk-SECRETKEY and sk-SECOND-KEY")
    assert "sk-SECRETKEY" not in text
    if around.count("{}") == 2:
        assert text == f"you sent {REDACTED} and {REDACTED}"


@pytest.mark.parametrize("end", ["", "…", "...", '"', "'; give another"])
def test_the_beginning_of_a_secret_is_taken_out_where_a_text_was_cut(end):
    register("sk-SECRETKEY-0123456789")
    assert redact(f"bad key sk-SECRETKEY-01{end}") == f"bad key {REDACTED}{end}"


def test_a_short_secret_leaves_ordinary_words_and_numbers_alone():
    for secret in ("m", "42", "none", "EMPTY", "e"):
        register(secret)
    text = "m: none of the 42 items is EMPTY, e.g. the model m"
    assert redact(text) == text
    assert redact("Authorization: Bearer none, key=42, api_key: 'EMPTY'") == (
        f"Authorization: Bearer {REDACTED}, key={REDACTED}, api_key: '{REDACTED}'"
    )


def test_a_short_secret_that_is_no_word_is_taken_out_where_it_stands_alone():
    register("pa55")
    assert redact("no user pa55 here, nor pa55word") == f"no user {REDACTED} here, nor pa55word"


@pytest.mark.parametrize(
    "word",
    [
        "http://h/v1?api_key=sk-SECRET-12345",
        "--endpoint=http://h/v1?a=1&key=sk-SECRET-12345",
        "http://u:p/sk-SECRET-12345@h:1/v1",
        "http:/u:sk-SECRET-12345@h/o/n",
        "u:sk-SECRET-12345@h:1/v1",
        "--endpoint=http://u:sk-SECRET-12345@h:x/v1",
    ],
)
def test_a_secret_in_a_word_of_a_command_line_is_taken_out_however_it_is_misplaced(word):
    register_words(["eval", "--retries", "0", word])
    assert "SECRET" not in redact(f"{word}: no such folder")


def test_words_of_a_command_line_that_hold_no_secret_stay():
    words = ["org/name@main", "--set", "role=router:bits=8", "gates-8bit:bits=4", "http://h:8080/o/n@main", "a@b"]
    register_words(words)
    assert [redact(word) for word in words] == words


def test_user_and_password_of_an_address_are_never_shown():
    assert redact("http://me:pw@h/v1 and me@h") == f"http://{REDACTED}@h/v1 and me@h"
    assert register_url("https://me:long%21password@h:1/v1") == "https://h:1/v1"
    assert redact("it was long!password or long%21password") == f"it was {REDACTED} or {REDACTED}"


def test_tables_are_redacted_in_values_and_keys():
    table = {"a": ["sk-SECRETKEY", 1, None], "sk-SECRETKEY": {"b": "x sk-SECRETKEY"}}
    assert redacted(table) is table
    register("sk-SECRETKEY")
    assert redacted(table) == {"a": [REDACTED, 1, None], REDACTED: {"b": f"x {REDACTED}"}}


def test_a_key_comes_without_the_newline_of_the_file_that_it_was_in(monkeypatch):
    monkeypatch.setenv("SKEY", "sk-SECRETKEY\n")
    assert secret_from("SKEY", "--key-env") == "sk-SECRETKEY"
    assert redact("sk-SECRETKEY") == REDACTED


@pytest.mark.parametrize("value", ["", "  \n", "sk-€-SECRET", "sk-SECRET\nsecond", "sk-SECRET\x01", "sk- SECRET"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("SKEY", value)
    with pytest.raises(UsageError, match="--key-env") as error:
        secret_from("SKEY", "--key-env")
    assert "SECRET" not in str(error.value) and "\n" not in str(error.value)


def test_a_key_in_place_of_the_variables_name_is_not_repeated():
    with pytest.raises(UsageError, match="--key-env") as error:
        secret_from("sk-SECRETKEY", "--key-env")
    assert "SECRET" not in str(error.value)
    assert redact("sk-SECRETKEY") == REDACTED
