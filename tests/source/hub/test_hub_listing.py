"""The Hub's listing of a repository, read as a stranger's text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.errors import MlxquantError
from mlxquant.source.hub.errors import HubError
from mlxquant.source.hub.listing import MOST_FILES, Listing, read_listing

COMMIT, SHA256 = "a" * 40, "b" * 64


def listing(*files: Any, **fields: Any) -> bytes:
    return json.dumps({"id": "o/n", "sha": COMMIT, "siblings": list(files), **fields}).encode()


def file(name: str = "config.json", **fields: Any) -> dict[str, Any]:
    return {"rfilename": name, "size": 3, **fields}


def refused(text: bytes, revision: str | None = None) -> str:
    with pytest.raises(HubError) as error:
        read_listing(text, "o/n", revision)
    message = str(error.value)
    assert message.isprintable(), "one line, and nothing that moves a cursor"
    return message


def test_what_a_hub_says_is_taken_over():
    weights = file("model.safetensors", lfs={"sha256": SHA256, "size": 3, "pointerSize": 130}, blobId="c" * 40)
    text = listing(file(blobId="d" * 40), weights, file("sub/a b é.json", size=None))
    assert read_listing(text, "o/n", None) == Listing(
        COMMIT,
        {"config.json": 3, "model.safetensors": 3, "sub/a b é.json": None},
        {"model.safetensors": SHA256},
        {"config.json": "d" * 40},
    )


@pytest.mark.parametrize(
    "commit", [None, 5, "main", "A" * 40, "a" * 39, "a" * 41, "../../../../ESC", "a" * 40 + "\n", "x\x1b[31m\n", [], {}]
)
def test_a_commit_is_forty_hex_digits(commit):
    assert "forty hex digits are expected" in refused(listing(file(), sha=commit))


def test_a_commit_that_is_asked_for_is_the_one_that_comes():
    assert read_listing(listing(file()), "o/n", COMMIT).commit == COMMIT
    assert "where cccccccccccc was asked for" in refused(listing(file()), "c" * 40)


@pytest.mark.parametrize(
    "name",
    [
        "../x.json", "sub/../../x.json", "/etc/x.json", "a\\b.json", "..\\x.json", "C:x.json", "a\0b.json", "a\nb.json",
        "a\x1b[31m.json", "a\u202egnp.json", "a\u2028b", "\ud800.json", "", ".", "a//b", "a/", "./a", "a" * 5000,
    ],
)  # fmt: skip
def test_a_name_is_a_path_within_the_repository(name):
    assert "a file named" in refused(listing(file(name)))


@pytest.mark.parametrize(("one", "two"), [("a.json", "a.json"), ("a.json", "A.json"), ("é.json", "e\u0301.json")])
def test_two_names_of_one_file_are_refused(one, two):
    assert "one file on some systems" in refused(listing(file(one), file(two)))


@pytest.mark.parametrize("size", ["abc", "5", -5, 1e30, 1.5, True, [], {}, 10**40])
def test_a_size_is_a_whole_number(size):
    assert "with the size" in refused(listing(file(size=size)))


@pytest.mark.parametrize("lfs", [5, [], {}, {"sha256": None}, {"sha256": "b" * 63}, {"sha256": "B" * 64}])
def test_a_sha256_has_64_hex_digits(lfs):
    assert "with the SHA-256" in refused(listing(file(lfs=lfs)))


def test_a_file_of_two_sizes_is_refused():
    assert "with two sizes" in refused(listing(file(lfs={"sha256": SHA256, "size": 4})))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"5", b"<html>", b"[" * 1_000_000, b'{"a":' * 100_000, b"\xff\xfe",
        b'{"sha": 1' + b"0" * 5000,
        listing(siblings=None), listing(siblings=5), listing(siblings={}), listing(None), listing("a"), listing([]),
        listing({"size": 3}), listing({"rfilename": 5}), listing(file(blobId=5)), listing(file(blobId="../x")),
        b'{"sha": "%b", "sha": "%b", "siblings": []}' % (b"a" * 40, b"b" * 40),
        b'{"sha": "%b", "siblings": [{"rfilename": "a", "size": NaN}]}' % (b"a" * 40),
    ],
)  # fmt: skip
def test_any_other_json_is_one_line(text):
    assert "answers what no Hub does" in refused(text)


def test_a_listing_without_end_is_refused():
    assert f"up to {MOST_FILES:,} are read" in refused(listing(*({"rfilename": "a"} for _ in range(MOST_FILES + 1))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {}, optional={"rfilename": json_values, "size": json_values, "lfs": json_values, "blobId": json_values}
)


@given(st.fixed_dictionaries({}, optional={"sha": json_values | st.just(COMMIT), "siblings": st.lists(entries)}))
def test_no_listing_ends_in_a_traceback(answer):
    try:
        read_listing(json.dumps(answer).encode(), "o/n", None)
    except MlxquantError as error:
        assert str(error).isprintable()
