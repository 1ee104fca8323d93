"""Keys and passwords that must not leave: what is registered here is taken out of every text on its way out.

Whoever reads a secret (an environment variable, the user and password of an address) registers it at once. Whoever
lets text leave calls `redact` (messages, tracebacks, progress) or `redacted` (the tables of records and traces). So it
does not matter who repeated the secret: a server in its error, a model in its answer, a library in an exception. Text
of others is redacted before it is cut, for half a secret is no longer known here.

A secret of eight characters or more is taken out wherever it stands, as it is and as programs write it: escaped as in
JSON, Python, HTML or an address, as base64 or hex, and its beginning where a text was cut. A shorter one may be an
ordinary word ("none", "EMPTY", "42"): it goes where it follows a word for a secret, such as "Bearer", or where it
stands alone and mixes letters with digits. This hides what is known to be secret; it does not look for secrets.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from ..errors import UsageError

REDACTED = "[redacted]"
_LONG = 8  # characters from which on a secret is taken out wherever it stands
_ALONE = 4  # characters from which on a short one is, where it stands alone
_CONTEXT = r"(?i:bearer|basic|token|password|passwd|secret|authorization|key)[\"'`]?(?:[:=\s]|%20){1,3}[\"'`]?"
# the user and password of an address; also where the password has a slash, and as Path writes it, with one slash
_USER = re.compile(r"(?<=:/)(/?)(?:[^\s/]+|[^\s/:@]+:(?!\d{1,5}/)[^\s@]*)@")
# in words of a command line: a user and password without a scheme, and the values of a query
_BARE = re.compile(r"[^\s/:@=\[\]]+:(?P<password>[^\s@]+)@[^\s@]+")
_CUT = re.compile(r"$|…|\.\.\.|[\"'`]")

_secrets: dict[str, None] = {}
# Forms of long secrets without capitals, which are looked for first, as that is a hundred times as fast as a pattern
_forms_known: list[str] = []
_long: re.Pattern[str] | None = None
_short: re.Pattern[str] | None = None


def register(secret: str | None) -> None:
    """Take a secret out of all text from now on: as it is, without the white space around it, and each word of it."""
    global _forms_known, _long, _short
    whole = (secret or "").strip()
    if not whole or secret in _secrets:
        return
    assert secret is not None
    _secrets.update(dict.fromkeys((secret, whole, *whole.split())))
    forms = sorted({form for value in _secrets for form in _forms(value)}, key=len, reverse=True)
    _long = re.compile("|".join(map(re.escape, forms)), re.IGNORECASE) if forms else None
    patterns = [pattern for value in _secrets if len(value) < _LONG for pattern in _patterns(value)]
    _short = re.compile("|".join(patterns)) if patterns else None
    _forms_known = [form.casefold() for form in forms]


def register_url(url: str) -> str:
    """Register the user and the password within an address. The address without them."""
    try:
        parts = urlsplit(url)
        secrets = (parts.password, parts.username)
    except ValueError:
        secrets = (None, None)
    for secret in secrets:
        register(secret)
        register(unquote(secret) if secret else None)
    return _USER.sub(r"\1", url)


def register_words(words: Iterable[str]) -> None:
    """Register what may be a secret in the words of a command line: passwords, and what addresses hold after a "?".

    A message may repeat a word whatever it was given for, and before anything has read it as an address.
    """
    for word in words:
        if "://" in word:
            register_url(word.partition("=")[2] if word.startswith("-") else word)
            for _, value in parse_qsl(word.partition("?")[2]):
                register(value)
        elif bare := _BARE.fullmatch(word):
            register(bare["password"])


def secret_from(variable: str | None, option: str) -> str | None:
    """Read the key that an environment variable holds, register it, and strip the white space around it.

    Raises UsageError where there is none, or none that a header of HTTP can carry; neither the key nor what was given
    as the variable's name is repeated, for that may be the key itself.
    """
    if variable is None:
        return None
    register(value := os.environ.get(variable))
    if value is None:
        register(variable)
        raise UsageError(f"{option}: that variable is not set; give the name of the variable that holds the key")
    key = value.strip()
    if not key:
        raise UsageError(f"{option}: the variable is empty; set it to the server's key, or leave the option out")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            f"{option}: the variable holds characters that no key has (white space, control characters or letters"
            " outside ASCII); is it set to the key alone?"
        )
    return key


def redact(text: str) -> str:
    """Give a text without the registered secrets, and without the user and password of any address in it.

    >>> redact("no answer from http://me:pass@host/v1")
    'no answer from http://[redacted]@host/v1'
    """
    text = _USER.sub(rf"\1{REDACTED}@", text) if ":/" in text else text
    if _long is not None:
        plain = text.casefold()
        if any(form in plain for form in _forms_known):
            text = _long.sub(REDACTED, text)
        text = _without_beginnings(text)
    if _short is not None:
        text = _short.sub(lambda match: (match[match.lastindex] if match.lastindex else "") + REDACTED, text)
    return text


def shortened(text: str, most: int) -> str:
    """Redact a text, then cut it to so many characters: half a secret would not be known any more."""
    return redact(text)[:most]


def redacted(value: Any) -> Any:
    """Give a value of JSON with every text in it redacted, keys of tables included; itself where nothing is secret."""
    if not _secrets:
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(k) if isinstance(k, str) else k: redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    return value


def forget() -> None:
    """Forget all secrets, as tests want."""
    global _forms_known, _long, _short
    _secrets.clear()
    _forms_known, _long, _short = [], None, None


def _forms(value: str) -> Iterator[str]:
    """A long secret as programs write it; nothing of a short one."""
    if len(value) < _LONG:
        return
    data = value.encode("utf-8", "surrogateescape")
    plain = data.decode("utf-8", "replace")
    yield value
    yield data.decode("latin-1")  # UTF-8 that was read as latin-1
    for written in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]):
        yield written
        yield json.dumps(written, ensure_ascii=False)[1:-1]  # JSON within JSON
    yield ascii(value)[1:-1]
    yield value.replace("/", "\\/")  # as PHP writes JSON
    yield from (quote(data), quote(data, safe=""), quote_plus(data), html.escape(plain), data.hex())
    yield quote(quote(data, safe=""), safe="")  # an address in an address
    yield "".join(f"%{byte:02x}" for byte in data)
    for place in range(3):  # base64 takes three bytes at a time, and the secret may begin at each of them
        coded = base64.b64encode(bytes(place) + data).decode()
        known = coded[-(-8 * place // 6) : 8 * (place + len(data)) // 6]
        yield known
        yield known.translate(str.maketrans("+/", "-_"))


def _patterns(value: str) -> Iterator[str]:
    """Patterns for a short secret: after a word for one, and alone where it is no ordinary word or number."""
    escaped = re.escape(value)
    yield rf"(?<![A-Za-z])({_CONTEXT}){escaped}(?!\w)"
    if len(value) >= _ALONE and re.search(r"[^\W\d]", value) and re.search(r"\d", value):
        yield rf"(?<![\w-]){escaped}(?![\w-])"


def _without_beginnings(text: str) -> str:
    """Take out what a cut left of a secret: its first eight characters or more, where a text or a quotation ends."""
    for value in _secrets:
        begin, at = value[:_LONG], 0
        while len(value) > _LONG and (at := text.find(begin, at)) >= 0:
            end = at + len(_common(value, text[at : at + len(value)]))
            if _CUT.match(text, end):
                text = text[:at] + REDACTED + text[end:]
            at += 1
    return text


def _common(a: str, b: str) -> str:
    """The beginning that two texts share."""
    return a[: next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))]
