"""What many pages cost: the bill adds up by hand, batches count as one measurement, the queue follows its formula."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from ocrlab import paths
from ocrlab.machine.power import Energy
from ocrlab.report import costs as shown
from ocrlab.report.queueing import queue_words
from ocrlab.study import energy as energy_module
from ocrlab.study import storage
from ocrlab.study.bill import bill, what_is_missing, worth_showing
from ocrlab.study.costs import page_costs, page_times, rows_here
from ocrlab.study.energy import measure_power
from ocrlab.study.findings import load_findings
from ocrlab.study.phases import PHASES, bottleneck, phase_seconds, sped_up
from ocrlab.study.queueing import erlang_c, erlang_wait, poisson, simulate, size_cluster
from ocrlab.workspace.runner import run_notebook
from tests.runs import reading, write_run

NO_POWER = pd.DataFrame({"machine": [], "set": [], "label": [], "joules_a_page": [], "reason": []})
FORCED = {"min_new_tokens": 8, "max_new_tokens": 8}


def page(number: int, page_s: float, **changes: object) -> dict:
    measured = {"page_s": page_s, "batch_pages": 1, **changes.pop("measured", {})}  # type: ignore[dict-item]
    return reading(f"p{number:02}", changes.pop("text", "abcdefghij"), "abcdefghij", measured=measured, **changes)


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
    costs = page_costs(rows_here()).set_index("batch_size")
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
    costs = page_costs(rows_here())
    power = pd.DataFrame([
        {"machine": "M", "set": "mine", "label": costs["label"].iloc[0], "joules_a_page": 360.0, "reason": ""},
        {"machine": "another", "set": "mine", "label": costs["label"].iloc[1], "joules_a_page": 1.0, "reason": ""},
    ])  # fmt: skip
    billed = bill(costs, 10_000, price_per_hour=1.0, price_per_kwh=0.3, power=power)
    assert billed["kwh"].iloc[0] == pytest.approx(1.0) and billed["energy_money"].iloc[0] == pytest.approx(0.3)
    assert np.isnan(billed["kwh"].iloc[1]) and billed["energy"].tolist() == ["measured", "not measured"]
    assert "1.0 kWh, 0.30" in shown.cost_table(billed)["energy"].iloc[0]


def test_repeats_are_one_page_and_mixed_batches_are_of_all_their_sets(tmp_path: Path) -> None:
    twice = [page(0, s, repeat=n) for n, s in enumerate((0.2, 0.4))] + [page(1, 0.5)]
    mixed = [page(n, 0.1, asked={"batch_size": 2}, measured={"batch_pages": 2}, set="ab"[n]) for n in range(2)]
    write_run(tmp_path / "run", *twice, *mixed)
    rows = rows_here([str(tmp_path / "run")])
    costs = page_costs(rows)
    assert costs["set"].tolist() == ["mine", "a + b"] and costs["units"].tolist() == [2, 1]
    assert costs["page_s"].iloc[0] == pytest.approx(0.4) and np.isnan(costs["page_s_low"].iloc[1])
    assert page_times(rows, costs).tolist() == [pytest.approx(0.3), 0.5]


def test_what_misreads_was_seldom_measured_or_forced_is_not_shown(tmp_path: Path) -> None:
    good = [page(n, 0.5) for n in range(9)]
    wrong = [page(n, 0.1, text="x", asked={"max_pixels": 4096}) for n in range(9)]
    few = [page(n, 0.2, asked={"max_pixels": 8192}) for n in range(7)]
    forced = [page(n, 0.01, asked=FORCED) for n in range(9)]
    asked = [page(n, 0.3, asked={"prompt": "other"}) for n in range(9)]
    write_run(tmp_path / "run", *good, *wrong, *few, *forced, *asked)
    costs = page_costs(rows_here([str(tmp_path / "run")]))
    assert len(costs) == 5 and costs["forced"].sum() == 1
    assert worth_showing(costs[costs["settings"].map(lambda s: s.prompt != "other")], 0.1, 9)["page_s"].tolist() == [
        0.5
    ]
    assert 0.3 not in worth_showing(costs, 0.1, 9)["page_s"].tolist()
    assert worth_showing(costs, 1.0, 9, least=7)["page_s"].round(3).tolist() == [0.1, 0.2, 0.5]
    only = costs[costs["forced"].astype(bool)]
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
    slow = bottleneck(line)
    assert (slow.phase, slow.next) == ("decode", "vision") and (slow.share, slow.times) == pytest.approx((0.6, 3))
    assert phase_seconds(pd.DataFrame(), ["k"]).empty


def test_the_queue_by_hand() -> None:
    queue = simulate(np.array([0.0, 0.0, 1.0, 10.0]), np.array([2.0, 5.0, 1.0, 1.0]), 2)
    assert queue.waited_s.tolist() == [0, 0, 1, 0] and queue.in_system_s.tolist() == [2, 5, 2, 1] and queue.end_s == 11
    assert simulate(np.zeros(5), np.ones(5), 2).end_s == 3


@pytest.mark.parametrize(("workers", "load"), [(1, 0.5), (4, 0.7), (10, 0.8)])
def test_the_queue_follows_erlangs_formula(workers: int, load: float) -> None:
    rng = np.random.default_rng(1)
    rate, pages = load * workers / 0.2, 150_000
    queue = simulate(poisson(rate, pages, rng), rng.exponential(0.2, pages), workers)
    settled = queue.waited_s[pages // 20 :]
    assert settled.mean() == pytest.approx(erlang_wait(workers, rate, 0.2), rel=0.08)
    assert (settled > 0).mean() == pytest.approx(erlang_c(workers, rate * 0.2), rel=0.05)


def test_known_values_of_erlang_and_of_equal_lengths() -> None:
    # One worker: the load itself waits; two at half load: one third (textbook value).
    assert erlang_c(1, 0.5) == pytest.approx(0.5) and erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(2, 2.5) == 1 and erlang_wait(2, 10, 0.25) == np.inf
    # Pollaczek and Khinchine: equal lengths wait half as long as exponential ones.
    rng, pages = np.random.default_rng(2), 150_000
    waited = simulate(poisson(0.7, pages, rng), np.ones(pages), 1).waited_s.mean()
    assert waited == pytest.approx(erlang_wait(1, 0.7, 1.0) / 2, rel=0.08)


def test_unequal_pages_wait_longer_and_more_workers_help() -> None:
    spread = np.array([0.05] * 90 + [1.0] * 10)
    sized = size_cluster(spread, 36_000, at_once=500, simulated=4000, draws=5)
    measured, equal = (sized[sized["lengths"] == name] for name in ("measured", "equal"))
    assert measured["workers"].iloc[0] == 2 and measured["load"].iloc[0] == pytest.approx(0.725)
    assert (measured["p95_times_equal"] > 1.5).all() and equal["p95_times_equal"].isna().all()
    assert measured["waiting"].is_monotonic_decreasing and measured["at_once_s"].is_monotonic_decreasing
    assert sized["at_once_s"].iloc[0] > 500 * 0.145 / 2 * 0.5
    assert "36,000 pages an hour keep 2 workers 72% busy" in queue_words(sized)
    assert queue_words(size_cluster(np.array([]), 1)).startswith("No page was read one at a time")


def test_bytes_disk_and_network(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Image.new("L", (60, 60)).save(tmp_path / "two.pdf", save_all=True, append_images=[Image.new("L", (60, 60))])
    (tmp_path / "a.png").write_bytes((paths.PAGES / "lines" / "001.png").read_bytes())
    from ocrlab.pages import load_pages

    pages = [*load_pages(tmp_path / "two.pdf"), *load_pages(tmp_path / "a.png")]
    rows = pd.DataFrame({"set": ["pdf", "pdf", "png", "gone"], "page_sha256": [*(p.sha256 for p in pages), "0" * 64]})
    found = storage.bytes_a_page(rows, [tmp_path / "two.pdf", tmp_path / "a.png"])
    sizes = [(tmp_path / name).stat().st_size for name in ("two.pdf", "a.png")]
    assert found == {"pdf": sizes[0] / 2, "png": sizes[1]}
    fed = storage.feeding(page_costs(rows_here()), {"mine": 1e6}, disk_mb_s=100, network_mbit_s=80)
    assert fed["disk_workers"].tolist() == [pytest.approx(55), pytest.approx(15)]
    assert fed["network_workers"].tolist() == [pytest.approx(5.5), pytest.approx(1.5)]
    absent = shown.feeding_table(storage.feeding(page_costs(rows_here()), {}, disk_mb_s=1, network_mbit_s=1))
    assert (absent["kB a page"] == "its pages are not here").all()
    measured = storage.measure_disk(tmp_path / "disk", megabytes=2, repeats=3)
    assert measured["reason"] or 0 < measured["low_quartile"] <= measured["median"]
    assert list((tmp_path / "disk").iterdir()) == []
    monkeypatch.setattr(storage, "drop_from_cache", lambda file: "held by plan")
    assert storage.measure_disk(tmp_path, megabytes=1) == {"median": None, "reason": "not measured: held by plan"}


def test_on_a_cpu_no_energy_is_guessed_and_nothing_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "machine_name", lambda: "M")
    monkeypatch.setattr(energy_module, "ReaderPool", None)  # a reading would fail
    costs = page_costs(rows_here())
    power = measure_power(costs.assign(settings=[s.__class__(device="cpu") for s in costs["settings"]]), 4)
    assert power["joules_a_page"].isna().all() and power["reason"].str.contains("cpu tells no power").all()
    assert len(load_findings("power", run)) == 2
    told = " ".join(what_is_missing(rows_here(), costs, power))
    assert "cpu tells no power" in told and "make add" in told and "fast-path" not in told


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

    monkeypatch.setattr(energy_module, "choose_device", lambda device: Choice("cuda:0", "by plan"))
    monkeypatch.setattr(energy_module, "PowerMeter", Planted)
    settings = Settings(device="cpu", dtype="float32", max_new_tokens=4)
    here = {"machine": energy_module.machine_name(), "label": "l", "settings": settings}
    costs = pd.DataFrame([here | {"set": "labels + lines"}, here | {"set": "my own"}])
    power = measure_power(costs, 3)
    assert power["pages"].iloc[0] == 4 and power["joules_a_page"].iloc[0] == 3.0 and power["watts"].iloc[0] == 4.0
    assert "no set of this checkout" in power["reason"].iloc[1] and pd.isna(power["joules_a_page"].iloc[1])


def test_without_rows_the_notebook_names_what_makes_them() -> None:
    assert "04-pixels" in what_is_missing(pd.DataFrame(), pd.DataFrame(), NO_POWER)[0]
    few = rows_here(["reference-cpu"]).head(2)
    assert any("enough pages" in told for told in what_is_missing(few, pd.DataFrame(), NO_POWER))


@pytest.mark.parametrize("rows", ["reference", "few"])
def test_the_notebook_runs_on_any_rows(tmp_path: Path, rows: str) -> None:
    given: dict[str, object] = {"power_pages": 1}
    if rows == "few":
        write_run(tmp_path / "run", *(page(n, 0.1) for n in range(3)))
    else:
        (tmp_path / "run").mkdir()
    output = tmp_path / "11.ipynb"
    outcome = run_notebook(
        paths.NOTEBOOKS / "11-costs.ipynb", output, given, {"OCRLAB_RUN_FOLDER": str(tmp_path / "run")}, 120
    )
    assert outcome.status == "ok", outcome
    told = "".join(
        o.get("text", "") for c in nbformat.read(output, 4).cells if c.cell_type == "code" for o in c.outputs
    )
    assert ("enough pages" in told) == (rows == "few") and ("hours (" in told) == (rows == "reference")
