"""What the machine did meanwhile: clocks, energy and load where the system tells them, and the notes they give."""

from __future__ import annotations

import pytest

from mlxquant.bench import conditions as bench_conditions
from mlxquant.bench.conditions import Reading, between, condition_notes, read_conditions, unreadable

QUIET = Reading(0.0, 0.1, 10.0, 5.0, None, None, None)


def write(root, **files):
    for path, text in files.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def sample(round_, tok_s, **more):
    return {"build": 0, "test": "tg8", "round": round_, "tok_s": tok_s, **more}


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(bench_conditions, "MAC", False)


def test_clocks_are_those_of_the_fastest_core(tmp_path, linux):
    cpu = "sys__devices__system__cpu__"
    for core, clock in (("cpu0", 800_000), ("cpu1", 2_700_000)):
        write(
            tmp_path,
            **{f"{cpu}{core}__cpufreq__scaling_cur_freq": clock, f"{cpu}{core}__cpufreq__cpuinfo_max_freq": 3_000_000},
        )
    assert read_conditions(tmp_path).clock == 0.9


def test_energy_sums_the_packages_and_no_core_twice(tmp_path, linux):
    rapl = "sys__class__powercap__intel-rapl:"
    write(tmp_path, **{f"{rapl}0__energy_uj": 3_000_000, f"{rapl}1__energy_uj": 4_000_000, f"{rapl}0:0__energy_uj": 9})
    before = read_conditions(tmp_path)
    write(tmp_path, **{f"{rapl}0__energy_uj": 5_500_000})
    assert before.energy_j == 7.0
    assert between(before, read_conditions(tmp_path))["energy_j"] == 2.5


def test_energy_that_only_root_may_read_is_absent_with_the_reason(tmp_path, linux, monkeypatch):
    write(tmp_path, **{"sys__class__powercap__intel-rapl:0__name": "package-0"})
    assert read_conditions(tmp_path).energy_j is None
    assert unreadable(tmp_path)[0] == "energy: /sys/class/powercap/*/energy_uj is readable by root only"


def test_a_counter_that_wrapped_gives_no_energy():
    assert between(QUIET, QUIET)["energy_j"] is None
    before, after = (Reading(t, 0.0, None, 0.0, None, None, e) for t, e in ((0.0, 900.0), (1.0, 5.0)))
    assert between(before, after)["energy_j"] is None


def test_what_others_used_is_all_time_less_our_own():
    after = Reading(2.0, 0.1, 13.0, 6.0, None, None, None)
    assert between(QUIET, after)["others_cores"] == 1.0


def test_proc_stat_is_read_in_seconds(tmp_path, linux):
    write(tmp_path, proc__stat="cpu  100 0 50 9000 10 5 5 40 0 0\ncpu0 1 2 3")
    assert read_conditions(tmp_path).busy_s == pytest.approx(2.0)


def test_a_quiet_machine_gives_no_note():
    assert condition_notes([sample(n, 100, others_cores=0.01) for n in (1, 2, 3)], QUIET, 8) == []


def test_a_busy_machine_is_told():
    start = Reading(0.0, 6.0, 0.0, 0.0, None, None, None)
    first, second = condition_notes([sample(1, 100, others_cores=1.5)], start, 8)
    assert first == "busy: load average 6.0 on 8 cores before anything was measured"
    assert second.startswith("busy: other processes used 1.5 of 8 cores on average")


def test_low_clocks_and_heat_are_told_as_throttling():
    rows = [sample(1, 100, clock_share=0.4, thermal_pressure=2), sample(2, 100, clock_share=0.9, thermal_pressure=0)]
    assert condition_notes(rows, QUIET, 8) == [
        "throttled: clocks fell to 40 % of their maximum",
        "throttled: thermal pressure up to 'heavy' in 1 of 2 runs",
    ]


def test_rounds_that_get_slower_for_every_build_are_told():
    rows = [sample(n, rate) for n, rate in ((1, 100), (2, 90), (3, 80))]
    (note,) = condition_notes(rows, QUIET, 8)
    assert note == "throttled or busier: everything was slower in round 3 than in round 1, by 20 %"


@pytest.mark.parametrize(
    ("settings", "battery", "mode"),
    [
        (" powermode            2\n", "Now drawing from 'AC Power'\n", "high power, AC Power"),
        (" lowpowermode         1\n", "Now drawing from 'Battery Power'\n", "low power, Battery Power"),
        ("", "", None),
    ],
)
def test_macos_power_mode_is_read_from_pmset(settings, battery, mode):
    assert bench_conditions._mac_power_mode(settings, battery) == mode


def test_macos_thermal_pressure_is_read_from_notifyutil(monkeypatch):
    monkeypatch.setattr(bench_conditions, "MAC", True)
    monkeypatch.setattr(bench_conditions, "_run", lambda *_: "com.apple.system.thermalpressurelevel 1\n")
    assert bench_conditions._thermal_pressure() == 1
