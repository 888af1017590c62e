"""What many pages cost: the bill adds up by hand, a batch counts as one measurement, phases are shares of a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ocrlab import paths
from ocrlab.machine.describe import machine_name
from ocrlab.machine.energy import Energy
from ocrlab.study.records import load_findings
from tests.experiments.cells import Cells, names_of
from tests.notebooks import said_by
from tests.runs import reading, write_run

NOTEBOOK = names_of("11-costs")
PHASES, worth_showing = NOTEBOOK["PHASES"], NOTEBOOK["worth_showing"]
phase_seconds, sped_up = NOTEBOOK["phase_seconds"], NOTEBOOK["sped_up"]
bill, measure_power = NOTEBOOK["bill"], NOTEBOOK["measure_power"]
page_costs, timed_rows = NOTEBOOK["page_costs"], NOTEBOOK["timed_rows"]
NO_POWER = pd.DataFrame({"machine": [], "set": [], "label": [], "joules_per_page": [], "reason": []})
FIXED_LENGTH = {"min_new_tokens": 8, "max_new_tokens": 8}


def page(number: int, page_s: float, **changes: object) -> dict:
    measured = {"page_s": page_s, "batch_pages": 1, **changes.pop("measured", {})}  # type: ignore[dict-item]
    return reading(f"p{number:02}", changes.pop("text", "abcdefghij"), "abcdefghij", measured=measured, **changes)


def missing_of(rows: pd.DataFrame, costs: pd.DataFrame, power: pd.DataFrame) -> str:
    """What the notebook says that these rows cannot tell."""
    given = {"rows": rows, "costs": costs, "measure_power": lambda *_: power, "power_pages": 1}
    return Cells("11-costs", **given).run("power = measure_power").said


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pages of 0.1 to 1.0 s alone; eight in two batches of four, 0.4 s and 0.8 s a batch; two that failed."""
    alone = [page(n, (n + 1) / 10) for n in range(10)]
    batches = [page(n, 0.1 if n < 4 else 0.2, asked={"batch_size": 4}, measured={"batch_pages": 4}) for n in range(8)]
    failed = [page(n, 9.0, status="error", reason="broken") for n in (10, 11)]
    folder = write_run(tmp_path / "run", *alone, *batches, *failed)
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(folder))
    return folder


def test_the_mean_page_makes_the_bill(run: Path) -> None:
    costs = page_costs(timed_rows([run])).set_index("batch_size")
    assert costs["page_s"].tolist() == [pytest.approx(0.55), pytest.approx(0.15)]
    assert costs["pages"].tolist() == [10, 8] and costs["units"].tolist() == [10, 2]
    one = costs.loc[1]
    assert 0.3 < one["page_s_low"] < 0.45 < 0.55 < one["page_s_high"] < 0.8
    assert (costs.loc[4, "page_s_low"], costs.loc[4, "page_s_high"]) == (0.1, 0.2)  # two batches can say no more
    billed = bill(costs.reset_index(), 36_000, price_per_hour=2.0, price_per_kwh=0.5, power=NO_POWER)
    assert billed["hours"].tolist() == [pytest.approx(5.5), pytest.approx(1.5)]
    assert billed["money"].tolist() == [pytest.approx(11), pytest.approx(3)]
    assert billed["money_low"].iloc[0] == pytest.approx(one["page_s_low"] * 20) and billed["kwh"].isna().all()
    assert billed["energy"].tolist() == ["not measured"] * 2


def test_energy_is_billed_where_it_was_measured_and_nowhere_else(run: Path) -> None:
    costs = page_costs(timed_rows([run]))
    power = pd.DataFrame({"machine": ["M", "another"], "label": costs["label"], "joules_per_page": [360.0, 1.0]})
    power = power.assign(set="mine", reason="")
    billed = bill(costs, 10_000, price_per_hour=1.0, price_per_kwh=0.3, power=power)
    assert billed["kwh"].iloc[0] == pytest.approx(1.0) and billed["energy_money"].iloc[0] == pytest.approx(0.3)
    assert np.isnan(billed["kwh"].iloc[1]) and billed["energy"].tolist() == ["measured", "not measured"]
    assert "1.0 kWh, 0.30" in Cells("11-costs", billed=billed).run("def with_ends").shown["energy"].iloc[0]


def test_repeats_are_one_page_and_mixed_batches_are_of_all_their_sets(tmp_path: Path) -> None:
    twice = [page(0, s, repeat=n) for n, s in enumerate((0.2, 0.4))] + [page(1, 0.5)]
    mixed = [page(n, 0.1, asked={"batch_size": 2}, measured={"batch_pages": 2}, set="ab"[n]) for n in range(2)]
    write_run(tmp_path / "run", *twice, *mixed)
    rows = timed_rows([tmp_path / "run"])
    costs = page_costs(rows)
    assert costs["set"].tolist() == ["mine", "a + b"] and costs["units"].tolist() == [2, 1]
    assert costs["page_s"].iloc[0] == pytest.approx(0.4) and np.isnan(costs["page_s_low"].iloc[1])


def test_what_misreads_was_seldom_measured_or_has_a_fixed_length_is_not_shown(tmp_path: Path) -> None:
    good = [page(n, 0.5) for n in range(9)]
    wrong = [page(n, 0.1, text="x", asked={"max_pixels": 4096}) for n in range(9)]
    few = [page(n, 0.2, asked={"max_pixels": 8192}) for n in range(7)]
    fixed = [page(n, 0.01, asked=FIXED_LENGTH) for n in range(9)]
    asked = [page(n, 0.3, asked={"prompt": "other"}) for n in range(9)]
    write_run(tmp_path / "run", *good, *wrong, *few, *fixed, *asked)
    costs = page_costs(timed_rows([tmp_path / "run"]))
    assert len(costs) == 5 and costs["fixed_length"].sum() == 1
    assert worth_showing(costs[costs["settings"].map(lambda s: s.prompt != "other")], 0.1, 9)["page_s"].tolist() == [
        0.5
    ]
    assert 0.3 not in worth_showing(costs, 0.1, 9)["page_s"].tolist()
    assert worth_showing(costs, 1.0, 9, least=7)["page_s"].round(3).tolist() == [0.1, 0.2, 0.5]
    only = costs[costs["fixed_length"].astype(bool)]
    assert worth_showing(only, 0.1, 9)["page_s"].tolist() == [pytest.approx(0.01)]
    assert worth_showing(costs.iloc[:0], 0.1, 9).empty


def test_phases_are_shares_of_a_page_and_amdahl_limits_them() -> None:
    own = {"page": ["a", "b"], "vision_s": [0.2, 0.2], "prefill_s": [0.1, 0.1], "decode_s": [0.6, 0.6]}
    alone = pd.DataFrame(own | {"page_s": 1.0, "prepare_s": 0.05, "k": "alone"})
    ahead = pd.DataFrame(own | {"page_s": 0.5, "prepare_s": 0.4, "wait_s": 0.02, "batch_pages": 2, "k": "ahead"})
    bare = pd.DataFrame({"page": ["a"], "page_s": [1.0], "k": ["bare"]})
    found = phase_seconds(pd.concat([alone, ahead, bare]), ["k"]).set_index("k")
    assert found.index.tolist() == ["alone", "ahead"]
    assert found.loc["alone", list(PHASES)].tolist() == pytest.approx([0.05, 0.2, 0.1, 0.6, 0.05])
    assert found.loc["ahead", list(PHASES)].tolist() == pytest.approx([0.01, 0.1, 0.05, 0.3, 0.04])
    line = found.loc["alone"]
    assert sped_up(line, "decode", 3) == pytest.approx(1 / 0.6) and sped_up(line, "decode", np.inf) == pytest.approx(
        2.5
    )
    phases = found.reset_index().assign(set="mine", setting=["one", "other"])
    slow = Cells("11-costs", phases=phases, PHASES=PHASES).run("lines = []").shown.iloc[0]
    assert slow[["longest", "share", "next", "from times faster"]].tolist() == ["decode", "60%", "vision", "3.0"]
    assert phase_seconds(pd.DataFrame(), ["k"]).empty


def test_on_a_cpu_no_energy_is_guessed_and_nothing_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NOTEBOOK, "machine_name", lambda: "M")
    monkeypatch.setitem(NOTEBOOK, "ReaderPool", None)  # a reading would fail
    costs = page_costs(timed_rows([run]))
    power = measure_power(costs.assign(settings=[s.__class__(device="cpu") for s in costs["settings"]]), 4)
    assert power["joules_per_page"].isna().all() and power["reason"].str.contains("cpu reports no power").all()
    assert len(load_findings("power", run)) == 2
    missing = missing_of(timed_rows([run]), costs, power)
    assert "cpu reports no power" in missing and "make add" in missing and "fast-path" not in missing


def test_energy_of_a_page_is_the_meters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole path with the embedded reader; only the GPU and its counter are planted."""
    monkeypatch.setenv("OCRLAB_RUN_FOLDER", str(tmp_path))
    from ocrlab.machine.describe import Choice
    from ocrlab.reading.settings import Settings

    class Planted:
        def __init__(self, device: str) -> None:
            assert device == "cuda:0"
            self.energy = Energy(12.0, 3.0, "by plan")

        def __enter__(self) -> Planted:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setitem(NOTEBOOK, "choose_device", lambda device: Choice("cuda:0", "by plan"))
    monkeypatch.setitem(NOTEBOOK, "PowerMeter", Planted)
    settings = Settings(device="cpu", dtype="float32", max_new_tokens=4)
    here = {"machine": machine_name(), "label": "l", "settings": settings}
    costs = pd.DataFrame([here | {"set": "labels + lines"}, here | {"set": "my own"}])
    power = measure_power(costs, 3)
    assert power["pages"].iloc[0] == 4 and power["joules_per_page"].iloc[0] == 3.0 and power["watts"].iloc[0] == 4.0
    assert "no set of this checkout" in power["reason"].iloc[1] and pd.isna(power["joules_per_page"].iloc[1])


def test_without_rows_the_notebook_names_what_makes_them() -> None:
    assert "04-pixels" in missing_of(pd.DataFrame(), pd.DataFrame(), NO_POWER)
    few = timed_rows([paths.RESULTS / "reference-cpu"]).head(2)
    assert "enough pages" in missing_of(few, pd.DataFrame(), NO_POWER)


@pytest.mark.parametrize("rows", ["none", "named", "few"])
def test_the_notebook_answers_from_its_own_rows_or_from_a_named_run(tmp_path: Path, rows: str) -> None:
    run = tmp_path / "run"
    if rows == "few":
        write_run(run, *(page(n, 0.1) for n in range(3)))
    given = {"power_pages": 1} | ({"runs": ["reference-cpu"]} if rows == "named" else {})
    said = said_by("11-costs", run, given)
    assert ("enough pages" in said) == (rows == "few") and ("hours (" in said) == (rows == "named")
    assert ("No row has a time" in said) == (rows == "none") and ("reference-cpu" in said) == (rows == "named")
