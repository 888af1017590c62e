"""The canary catches late faults of a kernel, and experiments refuse what it caught; what 01-machine draws of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ocrlab.commands.cli import main
from ocrlab.experiments.attention import Prepare, all_variants
from ocrlab.machine import quarantine
from ocrlab.machine.describe import describe_stack
from ocrlab.machine.doctor import examine
from ocrlab.pages import Page, load_pages
from ocrlab.reading.page_reader import held_in_quarantine
from ocrlab.reading.settings import Settings
from ocrlab.study.experiment import run_experiment
from tests.experiments.cells import names_of
from tests.machine import plants

SDPA = Settings(dtype="float32", max_new_tokens=60)
CELLS = names_of("01-machine")
run_canary, compare = CELLS["run_canary"], CELLS["compare"]


pytestmark = pytest.mark.usefixtures("own_quarantine")


@pytest.fixture(scope="module")
def page() -> Page:
    return max(load_pages("labels"), key=lambda page: len(page.truth or ""))


def ask(page: Page, prepare: Prepare | None = None, settings: Settings = SDPA) -> dict[str, Any]:
    (finding,) = run_canary([settings], page, prepare)
    return finding


def test_healthy_kernels_give_the_same_text_and_are_not_held(page: Page) -> None:
    eager = Settings(dtype="float32", attn_implementation="eager", max_new_tokens=60)
    findings = list(run_canary([SDPA, eager], page))
    assert [f["verdict"] for f in findings] == ["same text", "same text"]
    assert all(0 <= f["error"] < f["bound"] for f in findings)
    assert quarantine.quarantined() == []


def test_a_late_fault_is_caught_held_and_refused_until_a_clean_verdict(page: Page, tmp_path: Path) -> None:
    finding = ask(page, plants.plant_turned_heads)
    assert finding["verdict"] == "faulty" and "deviations off" in finding["reason"]
    assert finding["error"] > 10 * finding["bound"]
    (line,) = [line for line in examine() if line.check == "quarantine"]
    assert line.level == "warning" and "float32 sdpa" in line.found

    rows = run_experiment("x", [SDPA], [page], folder=tmp_path)
    assert rows["status"].tolist() == ["unsupported"] and "quarantined by the canary" in rows["reason"][0]
    rows = run_experiment("x", [SDPA], [page], folder=tmp_path, read_quarantined=True)
    assert rows["status"].isin(["ok", "truncated"]).all()
    assert ask(page)["verdict"] == "same text", "the fault was planted in another process"
    rows = run_experiment("y", [SDPA], [page], folder=tmp_path)
    assert rows["status"].isin(["ok", "truncated"]).all(), "a clean verdict lifts the quarantine"


def test_the_command_refuses_what_is_held(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine.judge({("float32", "sdpa", None): "planted"})
    assert main(["read", str(page.file), "--dtype", "float32", "--max_new_tokens", "60"]) == 2
    assert "quarantined by the canary" in (said := capsys.readouterr().err) and "--quarantined" in said


def test_nan_and_death_are_findings(page: Page) -> None:
    nan = ask(page, plants.plant_nan)
    assert nan["verdict"] == "faulty" and "NaN" in nan["reason"]
    death = ask(page, plants.plant_death)
    assert death["verdict"] == "crashed" and "SIGABRT" in death["reason"]
    assert held_in_quarantine(SDPA) is not None


def test_what_is_not_installed_is_unsupported_and_not_held(page: Page) -> None:
    finding = ask(page, None, Settings(dtype="bfloat16", attn_implementation="flash_attention_3", max_new_tokens=8))
    assert finding["verdict"] == "unsupported" and "not installed" in finding["reason"]
    assert quarantine.quarantined() == []


def test_another_version_lifts_the_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    quarantine.judge({("float32", "sdpa", None): "planted"})
    assert held_in_quarantine(SDPA) is not None
    monkeypatch.setattr(quarantine, "stack", lambda: "torch 99")
    assert held_in_quarantine(SDPA) is None


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.json"):
        quarantine.quarantined(file)


def test_all_variants_cover_every_kernel_once() -> None:
    variants = [(s.dtype, s.attn_implementation, s.sdpa_kernel) for s in all_variants(SDPA, ["float32", "float16"])]
    assert len(variants) == len(set(variants)) == (6 + 1) + (6 + 4)


def made(tokens: str, gap: float = 1.0, finite: bool = True) -> SimpleNamespace:
    """A generation whose highest logits are `gap` and 0 at every step."""
    ids = tuple(map(ord, tokens))
    top = {"top_ids": tuple((i, 0) for i in ids), "top_logits": tuple((gap, 0.0) for _ in ids)}
    return SimpleNamespace(tokens=ids, text=tokens, finite=finite, **top)


def test_generations_are_compared_as_far_as_they_share_a_prefix() -> None:
    assert compare(made("abc"), made("abc"), 0.5)[0] == "same text"
    verdict, _, numbers = compare(made("abd", 0.1), made("abc", 0.1), 0.5)
    assert verdict == "within rounding" and numbers["first_difference"] == 2 and numbers["error"] == pytest.approx(0.1)
    verdict, reason, numbers = compare(made("abd", 2.0), made("abc", 2.0), 0.5)
    assert verdict == "faulty" and "differ from token 2 on" in reason and numbers["error"] == 2.0
    assert compare(made("abc", finite=False), made("abc"), 0.5)[0] == "faulty"
    assert compare(made("a the the", 0.1), made("a", 0.1), 0.5)[1].startswith("1 words are doubled")
    assert compare(made("a" + 20 * "!", 0.1), made("a", 0.1), 0.5)[1].startswith("one token is repeated")
    assert compare(made("a" + 20 * "!", 0.1), made("a", 0.1), 0.5, True)[0] == "within rounding"


def test_stammering_is_counted() -> None:
    assert CELLS["doubled_words"]("the the cat sat sat sat, на на весь весь") == 4
    assert CELLS["longest_run"]((1, 2, 2, 2, 3)) == 3 and CELLS["longest_run"](()) == 0


# What the notebook defines: tables and a figure, from planted findings of every verdict.


VERDICTS = ("works", "wrong", "unsupported", "not installed", "crashed", "timed out")


def test_coverage_table_has_the_rules_and_the_installed_build() -> None:
    table = CELLS["coverage_table"](["sm_90", "compute_120"])
    assert table.loc["RTX 50 (12.0)", "CUDA 12.6"] == "no" and table.loc["RTX 50 (12.0)", "CUDA 13.0"] == "yes"
    assert (
        table.loc["V100 (7.0)", "CUDA 13.0"] == "no" and table.loc["RTX 50 (12.0)", "installed here"] == "through PTX"
    )
    assert "installed here" not in CELLS["coverage_table"]([])


def test_stack_table_says_none_where_nothing_is() -> None:
    table = CELLS["stack_table"](describe_stack() | {"torch_cuda": None, "arch_list": []})
    assert table.loc["torch_cuda", "here"] == "none" and table.loc["arch_list", "here"] == "none"
    assert not table["here"].isin(["None", "nan", "NaN", "{}"]).any()


def test_probe_matrix_draws_every_verdict() -> None:
    lines = [
        {
            "attention": f"attention {verdict}",
            "kernel": None,
            "dtype": dtype,
            "case": "decode",
            "verdict": verdict,
            "reason": f"RuntimeError: why it is {verdict}. And more; remedy",
        }
        for verdict in VERDICTS
        for dtype in ("float32", "bfloat16")
    ]
    figure = CELLS["probe_matrix"](pd.DataFrame(lines))
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert "unsupported: why it is unsupported" in texts and "✗ crashed" in texts and "✓" in texts
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        v for v in CELLS["signs"] if v in VERDICTS
    ]


def test_canary_table_tells_the_reason_beside_the_verdict() -> None:
    base = {"dtype": "float32", "attn_implementation": "sdpa", "doubled": 0, "run": 1, "tokens": 9}
    found = pd.DataFrame(
        [
            base
            | {
                "sdpa_kernel": None,
                "verdict": "same text",
                "reason": "",
                "first_difference": None,
                "error": 1e-6,
                "bound": 1e-4,
            },
            base
            | {
                "sdpa_kernel": "cudnn",
                "verdict": "faulty",
                "reason": "its logits hold NaN or inf",
                "first_difference": 3.0,
                "error": None,
                "bound": 1e-4,
            },
        ]
    )
    table = CELLS["canary_table"](found)
    assert table.loc[("float32", "sdpa, cudnn"), "verdict"] == "faulty: its logits hold NaN or inf"
    assert table["first difference"].tolist() == ["", "3"] and table["logit error (bound)"].tolist() == [
        "1e-06 (0.0001)",
        "",
    ]
