"""Bench as a whole: workloads and settings, rounds and their order, what is kept, what fails, what is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxquant.bench.prompts import own_text, random_tokens, rows_of_tokens, text_from, words_of_text
from mlxquant.bench.record import unmeasured
from mlxquant.bench.run import Bench
from mlxquant.bench.workload import BenchSettings, Sample, Workload
from mlxquant.cli.options import parse_numbers
from mlxquant.errors import UsageError
from mlxquant.words.interrupts import ask_to_end, begin
from mlxquant.words.text import distinct
from tests.bench.bench_cases import Paced

counts = st.integers(0, 100_000)


def run(*subjects, resident=True, **settings):
    return Bench(subjects, BenchSettings(**{"prompts": (64,), "generate": (8,), **settings}), resident=resident).run()


# --- words ---


@given(st.sampled_from(["n_prompt", "n_gen"]), st.integers(1, 10**6), counts)
def test_a_label_is_read_back(kind, n, depth):
    workload = Workload(**{kind: n}, n_depth=depth)
    assert Workload.parse(workload.label) == workload


def test_labels_are_llama_benchs():
    settings = BenchSettings(prompts=(512, 0), generate=(128,), depths=(0, 4096))
    assert [w.label for w in settings.workloads()] == ["pp512", "tg128", "pp512 @ d4096", "tg128 @ d4096"]


def test_all_that_is_wrong_with_settings_is_told_at_once():
    with pytest.raises(UsageError) as error:
        BenchSettings(prompts=(0,), generate=(0,), repetitions=0, batch=0, delay_s=-1)
    message = str(error.value)
    assert all(f"{option}:" in message for option in ("-r", "-b", "--delay"))
    assert "nothing to measure" in message


def test_numbers_come_with_commas():
    assert parse_numbers(" 512, 2048", "-p") == (512, 2048)
    with pytest.raises(UsageError, match="-p '5k': whole numbers"):
        parse_numbers("5k", "-p")


def test_equal_names_are_told_apart():
    assert distinct(["a", "b", "a"]) == ["a", "b", "a#2"]


# --- prompts ---


def test_every_sequence_of_a_batch_begins_elsewhere_in_the_text():
    rows = rows_of_tokens(own_text(), lambda text: list(text.encode()), 256, 3, 50, seed=0)
    assert len({tuple(row) for row in rows}) == 3
    assert all(len(row) == 50 for row in rows)


def test_the_text_is_repeated_to_the_length():
    rows = rows_of_tokens(own_text(), lambda _: [1, 2, 3], 256, 1, 7, seed=0)
    assert rows == [[1, 2, 3, 1, 2, 3, 1]]


def test_random_tokens_are_the_same_for_every_build_and_within_the_vocabulary():
    one, other = (rows_of_tokens(random_tokens(), lambda _: [], 100, 2, 500, seed=4) for _ in range(2))
    assert one == other
    assert {t for row in one for t in row} <= set(range(100))


def test_no_two_texts_for_a_server_begin_alike():
    texts = [words_of_text(own_text(), 60) for _ in range(200)]
    assert len({text[:9] for text in texts}) == 200
    assert {len(text.split()) for text in texts} == {60}


def test_a_prompt_file_must_hold_text(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    with pytest.raises(UsageError, match="is empty"):
        text_from(empty)
    with pytest.raises(UsageError, match="cannot be read"):
        text_from(tmp_path / "none.txt")


# --- rounds ---


def test_every_round_measures_every_build_and_the_order_changes():
    record = run(Paced("a"), Paced("b"), Paced("c"), repetitions=8)
    orders: dict[tuple[int, str], list[int]] = {}
    for s in record["samples"]:
        orders.setdefault((s["round"], s["test"]), []).append(s["build"])
    assert all(sorted(order) == [0, 1, 2] for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) > 3


def test_the_seed_fixes_the_order():
    one, other = ([s["build"] for s in run(Paced("a"), Paced("b"), seed=5)["samples"]] for _ in range(2))
    assert one == other


def test_every_sample_is_kept_and_warm_ups_are_not_among_them():
    subject = Paced("a", rates=(100, 110, 120, 130, 140))
    record = run(subject, generate=(0,), warmups=2)
    assert [s["tok_s"] for s in record["samples"]] == [100, 110, 120, 130, 140]
    assert [call for call in subject.calls if call[1] == 0] == [("pp64", 0)] * 2
    assert record["results"][0]["tok_s"]["mean"] == 120


def test_builds_that_do_not_fit_together_are_loaded_anew_each_round():
    a, b = Paced("a"), Paced("b")
    record = run(a, b, resident=False, repetitions=3)
    assert (a.opened, a.closed, b.opened) == (3, 3, 3)
    assert record["builds"][0]["load_s"] == [0.5, 0.5, 0.5]
    assert {s["round"] for s in record["samples"]} == {1, 2, 3}


def test_a_failed_run_is_in_the_record_and_in_no_average():
    record = run(Paced("a", rates=(100, None, 200)), prompts=(0,), repetitions=3)
    (result,) = record["results"]
    assert (result["tok_s"]["n"], result["tok_s"]["mean"]) == (2, 150)
    assert result["failures"] == ["1 × timeout: a: no answer"]
    assert "tok_s" not in record["samples"][1]
    assert unmeasured(record) == []


def test_a_test_without_any_figure_is_called_unmeasured():
    record = run(Paced("a", rates=(None,)), prompts=(0,))
    assert record["results"][0]["tok_s"] is None
    assert unmeasured(record) == ["a, tg8: 5 × timeout: a: no answer"]


class Interrupted(Paced):
    def measure(self, workload, settings, run):
        if run == 3:
            raise KeyboardInterrupt
        return super().measure(workload, settings, run)


def test_a_run_stopped_by_hand_keeps_its_rounds():
    subject = Interrupted("a")
    record = run(subject)
    assert {s["round"] for s in record["samples"]} == {1, 2}
    assert record["notes"][0] == "stopped by hand in round 2 of 5"
    assert subject.closed == 1


def test_a_run_stops_also_where_a_library_kept_the_interrupt_to_itself():
    class Deaf(Paced):
        def measure(self, workload, settings, run):
            if run == 3:
                ask_to_end()  # what Ctrl-C does beside raising, which this subject lets nobody see
            return super().measure(workload, settings, run)

    subject = Deaf("a")
    try:
        record = run(subject)
    finally:
        begin()
    assert record["notes"][0] == "stopped by hand in round 3 of 5"
    assert [run for _, run in subject.calls].count(3) == subject.closed == 1


def test_a_run_stopped_in_its_first_round_keeps_nothing():
    class Early(Paced):
        def measure(self, workload, settings, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Early("a"))


def test_a_record_says_on_what_with_what_and_how():
    record = run(Paced("a"))
    assert record["schema"] == "mlxquant.bench/1"
    assert list(record) == [
        "schema", "date", "machine", "versions", "settings", "builds", "notes", "unreadable", "results", "ratios",
        "samples",
    ]  # fmt: skip
    assert {"chip", "cores", "memory_bytes", "os", "power_mode", "gpu_cores"} <= set(record["machine"])
    assert {"mlxquant", "mlx", "mlx-lm", "python"} <= set(record["versions"])
    assert record["builds"][0]["manifest_sha256"].startswith("a0")


def test_a_server_elsewhere_leaves_the_machine_unknown():
    record = Bench([Paced("a")], BenchSettings(repetitions=1), machine={"unknown": "elsewhere"}, served=True).run()
    assert record["machine"] == {"unknown": "elsewhere"}
    assert record["unreadable"] == []


def test_rates_are_tokens_over_seconds():
    assert Sample(0.5, 100).tok_s == 200
