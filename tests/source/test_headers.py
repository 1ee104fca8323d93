"""Headers of safetensors files: what is sound is read as it stands, what is not is refused by name."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save

from mlxquant.errors import SourceError
from mlxquant.source.headers import MAX_HEADER_BYTES, header_length, load_json, parse_header
from mlxquant.words.formats import DTYPES
from tests.support.safetensor_files import header

FILE = "model-00001-of-00002.safetensors"


def read(table: Any, size: int | None = None) -> Any:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    data = 0
    if isinstance(table, dict) and size is None:
        ends = [v["data_offsets"][1] for k, v in table.items() if k != "__metadata__" and isinstance(v, dict)]
        data = max(ends, default=0)
    return parse_header(text, FILE, 8 + len(text) + data if size is None else size)


def refused(table: Any, size: int | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        read(table, 1000 if size is None else size)
    message = str(caught.value)
    assert FILE in message and "\n" not in message and len(message) < 600
    return message


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# --- sound files ---


shapes = st.lists(st.integers(0, 5), max_size=4)


names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)


@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes)))
def test_tensors_lie_where_the_header_says(entries):
    entries.pop("__metadata__", None)
    table = header(entries)
    text = json.dumps(table).encode()
    tensors, _ = read(table)
    assert {t.name: (t.dtype, list(t.shape)) for t in tensors} == {n: (d, s) for n, (d, s) in entries.items()}
    for t in tensors:
        assert [t.start - 8 - len(text), t.start + t.nbytes - 8 - len(text)] == table[t.name]["data_offsets"]


def test_what_the_safetensors_library_writes_is_read():
    arrays: dict[str, NDArray[Any]] = {
        "b": np.ones((3, 2), np.float16),
        "a": np.zeros((0, 4), np.float32),
        "c": np.array(7, np.int64),
    }
    data = save(arrays, {"format": "pt"})
    length = header_length(data[:8], FILE, len(data))
    tensors, metadata = parse_header(data[8 : 8 + length], FILE, len(data))
    assert metadata == {"format": "pt"}
    for t in tensors:
        assert data[t.start : t.start + t.nbytes] == arrays[t.name].tobytes()


def test_tensors_may_stand_in_the_header_in_any_order():
    table = header({"a": ("F32", [2]), "b": ("U8", [3])})
    tensors, _ = read(dict(reversed(table.items())))
    assert {t.name for t in tensors} == {"a", "b"}


def test_a_tensor_without_values_takes_no_bytes_wherever_it_stands():
    table = {"e1": entry(shape=[0, 7], offsets=[0, 0]), "a": entry(), "e2": entry("U8", [3, 0], [8, 8])}
    assert {t.name: t.nbytes for t in read(table)[0]} == {"e1": 0, "a": 8, "e2": 0}


def test_a_header_may_be_padded_with_spaces():
    text = json.dumps({"a": entry()}).encode() + b"   "
    assert read(text, 8 + len(text) + 8)[0][0].start == 8 + len(text)


def test_metadata_is_given_back_and_never_taken_for_a_tensor():
    tensors, metadata = read({"__metadata__": {"format": "mlx", "total": "3"}, "a": entry()})
    assert metadata == {"format": "mlx", "total": "3"} and len(tensors) == 1


# --- the length ---


@pytest.mark.parametrize("size", [0, 3, 7])
def test_a_file_shorter_than_a_length_is_truncated(size):
    with pytest.raises(SourceError, match=f"{FILE}: at least 8 bytes expected, {size} found; download it again"):
        header_length(bytes(size), FILE, size)


def test_what_to_do_about_a_damaged_header_stands_apart_from_what_is_wrong_with_it():
    with pytest.raises(SourceError) as caught:
        header_length(b"abc", FILE, 3)
    assert caught.value.problem == f"{FILE}: at least 8 bytes expected, 3 found"
    assert caught.value.advice == "download it again"
    assert str(caught.value) == f"{caught.value.problem}; {caught.value.advice}"


def test_a_git_lfs_pointer_is_known_for_what_it_is() -> None:
    text = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    with pytest.raises(SourceError, match="git lfs pull"):
        header_length(text[:8], FILE, len(text))


def test_a_header_longer_than_the_file_is_refused_with_both_numbers():
    with pytest.raises(SourceError, match=r"header claims 1,000 bytes, but the file has 100; download it again"):
        header_length((1000).to_bytes(8, "little"), FILE, 100)


@pytest.mark.parametrize("claimed", [1 << 60, (1 << 64) - 1, 1 << 63])
def test_an_absurd_length_is_refused_before_anything_is_read(claimed):
    with pytest.raises(SourceError, match="download it again"):
        header_length(claimed.to_bytes(8, "little"), FILE, 4096)


def test_a_header_beyond_what_safetensors_allows_is_refused_even_if_the_file_is_long_enough():
    with pytest.raises(SourceError, match="safetensors allows 100,000,000"):
        header_length((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), FILE, 1 << 40)
    assert header_length(MAX_HEADER_BYTES.to_bytes(8, "little"), FILE, 1 << 40) == MAX_HEADER_BYTES


# --- places ---


def test_a_truncated_file_says_how_many_bytes_are_missing():
    table = header({"a": ("F32", [4]), "b": ("F32", [4])})
    whole = 8 + len(json.dumps(table)) + 32
    assert f"{whole:,} bytes expected, {whole - 5:,} found" in refused(table, whole - 5)


def test_bytes_after_the_last_tensor_are_refused():
    table = header({"a": ("F32", [4])})
    whole = 8 + len(json.dumps(table)) + 16
    assert f"{whole:,} bytes expected, {whole + 1:,} found" in refused(table, whole + 1)


def test_overlapping_tensors_are_both_named():
    message = refused({"first": entry(offsets=[0, 8]), "second": entry(offsets=[4, 12])})
    assert "tensors first and second overlap" in message


def test_two_tensors_on_the_same_bytes_overlap():
    assert "overlap" in refused({"a": entry(), "b": entry()})


def test_a_hole_between_tensors_is_named_by_the_tensor_after_it():
    message = refused({"a": entry(offsets=[0, 8]), "b": entry(offsets=[12, 20])})
    assert "4 bytes before b belong to no tensor" in message


@pytest.mark.parametrize(
    "offsets", [[-8, 0], [8, 0], [0], [0, 8, 16], [0, 8.0], ["0", "8"], [0] * 1000, None, {}, [True, 9]]
)
def test_offsets_that_are_no_positions_are_refused(offsets):
    message = refused({"a": entry(offsets=offsets)})
    assert "tensor a" in message and "data_offsets" in message


def test_offsets_that_contradict_the_shape_say_both_sizes():
    message = refused({"a": entry(shape=[3], offsets=[0, 8])})
    assert "F32 [3] takes 12 bytes, its data_offsets span 8" in message


@pytest.mark.parametrize("shape", [[10**9] * 4, [1 << 62, 2], [2**63 - 1] * 64, [0, 10**18]])
def test_a_huge_shape_is_arithmetic_and_never_memory(shape):
    assert "takes" in refused({"a": entry(shape=shape, offsets=[0, 8])})


def test_a_shape_of_a_million_lengths_is_not_even_multiplied():
    message = refused({"a": entry(shape=[2**63 - 1] * 1_000_000)}, 1 << 30)
    assert "is not a list of lengths" in message


@pytest.mark.parametrize("shape", [[-1], [1.5], ["2"], 2, None, [[2]], [1 << 63], [10**30], [True], {"0": 2}])
def test_a_shape_that_is_no_list_of_lengths_is_refused(shape):
    message = refused({"weight": entry(shape=shape)})
    assert "tensor weight" in message and "shape" in message


@pytest.mark.parametrize("dtype", ["F33", "", "f32", None, 4, ["F32"], "F8_E4M3FN"])
def test_an_unknown_dtype_lists_the_known_ones(dtype):
    message = refused({"a": entry(dtype)})
    assert "dtype" in message and "BF16" in message


# --- the text ---


@pytest.mark.parametrize("value", [b"[]", b"null", b"3", b'"x"', b"true"])
def test_a_header_that_is_no_object_is_refused(value):
    assert "a JSON object expected" in refused(value)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"a":', b"\xff\xfe{}", b"{}{}", b"\x00", b'{"a": [[[[[[      ', b"{'a':1}", b"9" * 5000],
)
def test_text_that_is_no_json_is_refused(text):
    assert "not readable as JSON" in refused(text, 8 + len(text))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_header_with_numbers_that_json_lacks_is_refused(constant):
    refused(b'{"a": {"dtype": "F32", "shape": [' + constant.encode() + b'], "data_offsets": [0, 8]}}')


def test_a_name_that_stands_twice_in_one_header_is_named():
    body = json.dumps(entry())
    assert "the key lm_head.weight stands twice" in refused(
        f'{{"lm_head.weight": {body}, "lm_head.weight": {body}}}'.encode(), 200
    )


def test_a_key_that_stands_twice_in_one_entry_is_refused():
    text = b'{"a": {"dtype": "F32", "dtype": "U8", "shape": [2], "data_offsets": [0, 8]}}'
    assert "the key dtype stands twice" in refused(text, 8 + len(text) + 8)


@pytest.mark.parametrize("value", [None, 3, "x", [], [["dtype", "F32"]]])
def test_an_entry_that_is_no_table_is_refused(value):
    assert "tensor a: its entry is not a table" in refused({"a": value})


@pytest.mark.parametrize("metadata", [None, 3, "x", [], {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_metadata_that_is_no_table_of_strings_is_refused(metadata):
    text = json.dumps({"__metadata__": metadata}).encode()
    assert "__metadata__" in refused(text, 8 + len(text))


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "\x1b[31mred", "x" * 100_000, "\u202egnp.", "\x00"])
def test_names_of_strangers_cannot_disturb_the_terminal(name):
    message = refused({name: entry(shape=[5])})
    assert message.isprintable()
    message.encode()


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "\x1b[31mred", "x" * 1001, "\u202egnp."])
def test_a_name_that_cannot_be_shown_is_refused(name):
    assert "is not a printable text of up to 1,000 letters" in refused({name: entry()})


def test_nested_lists_are_refused_before_they_are_parsed():
    text = b'{"a":[' + b"[]," * 9_000 + b"0]}"
    assert "entries of tensors expected, nested lists found" in refused(text)


def test_deep_nesting_is_refused():
    for depth in (100, 1000, 100_000):
        refused(b'{"a":' * depth + b"0" + b"}" * depth)


def test_parsing_a_hostile_header_takes_memory_in_proportion_to_it():
    text = b'{"a":[' + b'"ab",' * 200_000 + b"0]}"
    tracemalloc.start()
    refused(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(text)


def test_a_file_is_named_in_errors_about_json():
    with pytest.raises(SourceError, match=r"^index\.json: not readable as JSON"):
        load_json("{", "index.json")
