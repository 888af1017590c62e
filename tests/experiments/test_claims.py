"""Every claim's rule is fed rows of both kinds, rows of nobody, and rows of the wrong machine or model."""

from __future__ import annotations

from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from typing import Any

import nbformat
import pytest

from ocrlab import paths
from ocrlab.experiments import claim_rules
from ocrlab.experiments.claims import load_claims, verdicts
from ocrlab.experiments.evidence import CONFIRMED, OPEN, REFUTED, Evidence
from ocrlab.study.records import RecordError
from tests.experiments.cells import names_of
from tests.experiments.ledger import CARD, CPU, TWO_B, Run, contrast, fidelity, load, probe, readings, speed, write_run

IDS = [claim.id for claim in load_claims()]
STACK = {"findings/stack": [CARD]}
PLAIN = [probe("eager"), probe("sdpa", took="flash")]


def dtypes(**kinds: str) -> Run:
    """Findings of 03-dtype: a contrast by dtype, KL to match, and the tables beside them."""
    variants = {f"{dtype}, {a}": kind for dtype, kind in kinds.items() for a in ("sdpa", "eager")}
    broken = {name for name, kind in variants.items() if kind == "NaN"}
    return STACK | {
        "findings/probes": PLAIN,
        "findings/03-dtype-contrast": [contrast(w, "" if w in broken else k, 0 if w in broken else 8)
                                       for w, k in variants.items()],
        "findings/03-dtype-fidelity": [line for name in variants for line in fidelity(
            name, None if name in broken else 1e-4, status="invalid" if name in broken else "ok")],
        "findings/03-dtype-headroom": [TWO_B | {"module": "layers.0", "value": "scores", "bits": 5.0}],
        "rows/03-dtype-speed": speed(bfloat16=1.0, float16=1.2, float32=2.0),
    }  # fmt: skip


def attention(kind: str, **changes: Any) -> Run:
    lines = [contrast("eager", kind, **changes), contrast("sdpa", "", words="the one compared with")]
    return STACK | {
        "findings/02-attention-contrast": lines,
        "findings/02-attention-fidelity": fidelity("eager", 1e-4) + fidelity("sdpa", 1e-5),
    }


def sampling(healthy: str, broken: str) -> Run:
    lines = [("healthy", healthy), ("one NaN", broken), ("all NaN", broken)]
    return STACK | {"findings/sampling": [{"logits": n, "greedy": "token 0", "sampling": s} for n, s in lines]}


def recovery(works: bool) -> Run:
    lines = [("same process", "sample from NaN", False), ("same process", "a new tensor", works),
             ("same process", "a matrix product", works), ("new process", "a matrix product", True)]  # fmt: skip
    return STACK | {
        "findings/recovery": [dict(zip(("where", "attempt", "works"), v, strict=True), outcome="o") for v in lines]
    }


def kernels(calls: int) -> Run:
    blank = {"status": "ok", "math": 0, "efficient": 0, "cudnn": 0}
    eager = blank | {"variant": "eager", "flash": calls, "took": "none"}
    return {"findings/02-attention-kernels": [eager, blank | {"variant": "sdpa", "flash": 16, "took": "flash × 16"}]}


def tf32(low: float, high: float) -> Run:
    blank = TWO_B | {"status": "ok", "reason": "", "logit_error": 0.0, "ratio": (low + high) / 2}
    line = blank | {"dtype": "bfloat16", "ratio_low": low, "ratio_high": high}
    return STACK | {"findings/03-dtype-tf32": [line]}


def ready(soak: str) -> Run:
    """Everything is measured; the soak (weight 3 of 19) passes or fails."""
    line = TWO_B | {"verdict": soak, "words": "w", "pages": 5000, "minutes": 60.0}
    share = {"tpot_share": 0.2, "dtype": "bfloat16", "attn_implementation": "sdpa"}
    return recovery(False) | {
        "findings/doctor": [{"check": "card", "level": "ok"}], "findings/probes": PLAIN,
        "findings/canary": [{"verdict": "same text", "reason": ""}], "rows/04-pixels": readings(),
        "findings/load": [load("warm")], "findings/speed": [TWO_B | share], "findings/soak": [line],
    }  # fmt: skip


BOTH: dict[str, tuple[Run, Run]] = {
    "sm120-torch": (
        STACK | {"findings/probes": PLAIN},
        STACK | {"findings/probes": [probe("eager", "unsupported"), probe("sdpa", "crashed")]},
    ),
    "bf16-100": (
        dtypes(float32="", bfloat16="not worse", float16="not worse"),
        dtypes(float32="", bfloat16="worse", float16="not worse"),
    ),
    "tf32": (tf32(0.6, 0.8), tf32(0.99, 1.02)),
    "load-8.63": (
        STACK | {"findings/load": [load("warm", 3.0), load("cold", 12.0)]},
        STACK | {"findings/load": [load("warm", 2.0), load("cold", 5.0)]},
    ),
    "infer-7.0": (
        STACK | {"rows/02-attention": readings(attn_implementation="eager", page_s=7.1)},
        STACK | {"rows/02-attention": readings(attn_implementation="eager", page_s=2.0)},
    ),
    "vram-4.12": (
        {"findings/load": [load("none", prefill_bytes=2**20, decode_bytes=2**20, weights="dummy")]},
        {"findings/load": [load("none", weights="dummy")]},
    ),
    "quality-100": ({"rows/04-pixels": readings(cer_edits=0)}, {"rows/04-pixels": readings(cer_edits=3)}),
    "fa2-incompatible": (
        STACK | {"findings/probes": [*PLAIN, probe("flash_attention_2", "crashed")]},
        STACK | {"findings/probes": [*PLAIN, probe("flash_attention_2")]},
    ),
    "eager-stable": (attention("better"), attention("not worse")),
    "sdpa-active": (kernels(4), kernels(0)),
    "fp16-forbidden": (
        dtypes(float32="", bfloat16="not worse", float16="NaN"),
        dtypes(float32="", bfloat16="not worse", float16="not worse"),
    ),
    "dots-ocr-assert": (sampling("assert: x", "assert: x"), sampling("token 2", "assert: x")),
    "cuda-recovery": (recovery(True), recovery(False)),
    "remote-code": (
        {"rows/r": [*readings(trust_remote_code=True), *readings(status="unsupported", reason="custom code")]},
        {"rows/r": readings()},
    ),
    "vram-11.94": (STACK, {"findings/stack": [CARD | {"gpu_memory_bytes": 15.9 * 2**30}]}),
    "readiness-84": (ready("fail"), ready("pass")),
}  # fmt: skip


def judged(folder: Path, claim: str, run: Run) -> tuple[str, str]:
    (found,) = verdicts(write_run(folder, run), [claim])
    return found.verdict, found.reason


def test_every_claim_has_one_rule_and_a_case_of_both_kinds() -> None:
    assert sorted(IDS) == sorted(BOTH) and len(set(IDS)) == len(IDS) == 16
    rules = [claim.rule for claim in load_claims()]
    defined = [value for name, value in vars(claim_rules).items() if isfunction(value) and name[0] != "_"]
    own = [rule for rule in defined if rule.__module__ == claim_rules.__name__]
    assert sorted(rules, key=repr) == sorted(own, key=repr), "every function that is not private is a claim's rule"


@pytest.mark.parametrize("claim", IDS)
def test_rows_of_both_kinds_give_both_verdicts_and_no_rows_none(claim: str, tmp_path: Path) -> None:
    for name, run, wanted in zip("cr", BOTH[claim], (CONFIRMED, REFUTED), strict=True):
        kind, reason = judged(tmp_path / name, claim, run)
        assert kind == wanted, reason
    kind, reason = judged(tmp_path / "empty", claim, {})
    assert kind == OPEN and reason


@pytest.mark.parametrize("claim", load_claims(), ids=IDS)
def test_only_rows_of_the_right_machine_and_model_settle_a_claim(claim: Any, tmp_path: Path) -> None:
    """The same rows without the card, or of the embedded reader, leave it open with what they say."""
    for name, run in zip("cr", BOTH[claim.id], strict=True):
        if claim.settles_on != "any":
            kind, reason = judged(tmp_path / f"cpu {name}", claim.id, run | {"findings/stack": [CPU]})
            assert kind == OPEN and ("(here: none)" in reason or claim.id == "vram-11.94"), reason
        if claim.settles_on == "sm_12x":
            other = {"findings/stack": [CARD | {"compute_capability": "9.0", "arch_list": ["sm_90"]}]}
            assert judged(tmp_path / f"h100 {name}", claim.id, run | other)[0] == OPEN
        if claim.model != "any":
            tiny = {k: [line | ({"model_id": "tiny"} if "model_id" in line else {}) for line in v]
                    for k, v in run.items()}  # fmt: skip
            kind, reason = judged(tmp_path / f"tiny {name}", claim.id, tiny)
            assert kind == OPEN and "it takes rows of Qwen2-VL-2B" in reason and "What these rows say" in reason
        if claim.model == "2B":
            dummy = {k: [line | ({"weights": "dummy"} if "weights" in line else {}) for line in v]
                     for k, v in run.items()}  # fmt: skip
            assert judged(tmp_path / f"dummy {name}", claim.id, dummy)[0] == OPEN


@pytest.mark.parametrize(
    ("claim", "run", "kind", "says"),
    [
        ("sm120-torch", STACK | {"findings/probes": [*PLAIN, probe("sdpa", "wrong")]}, OPEN, "2 of 3"),
        ("sm120-torch", {"findings/stack": [CPU], "findings/probes": PLAIN}, OPEN, "runs on 12.0: no"),
        ("fa2-incompatible", STACK | {"findings/probes": [probe("flash_attention_2", "not installed")]}, OPEN, "not l"),
        ("bf16-100", dtypes(float32="", bfloat16="NaN"), REFUTED, "failed on 8 of 8 pages (NaN in logits)"),
        ("bf16-100", dtypes(bfloat16="not worse") | {"findings/probes": [probe(verdict="wrong")]}, REFUTED, "planted"),
        ("bf16-100", dtypes(bfloat16="not worse") | {"rows/03-dtype-speed": speed(bfloat16=1.0, float32=0.5)},
         REFUTED, "not the fastest"),
        ("bf16-100", dtypes(bfloat16="not worse") | {"rows/03-dtype-speed": speed(bfloat16=1.0, float32=2.0)},
         OPEN, "fastest is open"),
        ("fp16-forbidden", dtypes(float32="", float16="not settled"), OPEN, "5.0 bits"),
        ("fp16-forbidden", dtypes(float32="", bfloat16="not worse"), OPEN, "float16 was not read with"),
        ("tf32", tf32(0.9, 1.1), OPEN, "times the time"),
        ("tf32", STACK | {"findings/03-dtype-tf32": [TWO_B | {"status": "unsupported", "reason": "no card"}]},
         OPEN, "no card"),
        ("eager-stable", attention("worse"), REFUTED, "words of worse"),
        ("eager-stable", attention("not worse", pages=5), REFUTED, "eager failed on 3 of 8 pages (planted)"),
        ("eager-stable", attention("not worse", low=-0.02), OPEN, "which reads better is open"),
        ("load-8.63", STACK | {"findings/load": [load("warm", 8.6)]}, OPEN, "warm 8.60 s"),
        ("load-8.63", STACK | {"findings/load": [load("warm", 9.0), load("cold", 12.0)]}, CONFIRMED, "12.00 s"),
        ("infer-7.0", STACK | {"rows/a": readings(4, attn_implementation="eager")}, OPEN, "4 pages read"),
        ("infer-7.0", STACK | {"rows/a": readings(attn_implementation="eager", page_s=2.0)}, REFUTED, "650 tokens"),
        ("vram-4.12", {"findings/load": [load("none", weights="dummy")]}, REFUTED, "that is the weights alone"),
        ("vram-4.12", {"findings/load": [load("warm", dtype="float32")]}, OPEN, "bfloat16 or float16"),
        ("quality-100", {"rows/a": [*readings(23, cer_edits=0), *readings(24, cer_edits=1)[23:]]}, OPEN, "best of 1"),
        ("quality-100", {"rows/a": readings(10, cer_edits=0)}, OPEN, "10 pages"),
        ("dots-ocr-assert", sampling("token 2", "token 1"), OPEN, "not explained"),
        ("dots-ocr-assert", sampling("assert: x", "assert: x") | {"findings/stack": [CPU]}, OPEN, "healthy logits"),
        ("vram-11.94", {"findings/stack": [CARD | {"gpu": "NVIDIA GeForce RTX 5070"}]}, OPEN, "another one"),
        ("readiness-84", recovery(False) | {"rows/a": readings()}, OPEN, "not measured"),
    ],
)  # fmt: skip
def test_what_lies_between(claim: str, run: Run, kind: str, says: str, tmp_path: Path) -> None:
    found, reason = judged(tmp_path, claim, run)
    assert (found, says in reason) == (kind, True), reason


def test_lines_of_another_machine_do_not_count(tmp_path: Path) -> None:
    run = {"rows/04-pixels": readings(cer_edits=0) + [line | {"machine": "other"} for line in readings(cer_edits=9)]}
    assert judged(tmp_path, "quality-100", run | STACK)[0] == CONFIRMED
    assert len(Evidence(tmp_path).table("rows/*")) == 24


def test_a_damaged_run_says_which_file(tmp_path: Path) -> None:
    write_run(tmp_path, STACK)
    (tmp_path / "findings" / "probes.jsonl").write_text("{\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"probes\.jsonl"):
        verdicts(tmp_path, ["sm120-torch"])


@pytest.mark.parametrize("claim", load_claims(), ids=IDS)
def test_the_notebook_that_shows_a_claim_has_that_heading(claim: Any) -> None:
    notebook = nbformat.read(paths.NOTEBOOKS / f"{claim.notebook}.ipynb", as_version=4)
    headings = [line.lstrip("# ") for cell in notebook.cells if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith("#")]  # fmt: skip
    assert claim.heading in headings
    assert all(known["says"] and known["reference"] for known in claim.known)


def test_the_ledger_s_table_holds_every_claim(tmp_path: Path) -> None:
    ledger_table = names_of("08-recommendation")["ledger_table"]
    found = verdicts(write_run(tmp_path, kernels(0)))
    table = ledger_table(found).data
    assert all(f"<b>{claim}</b>" in table for claim in IDS) and table.count("<details>") == 16
    assert table.index("<b>sdpa-active</b>") < table.index("<b>sm120-torch</b>"), "settled ones first"
    assert f"; {found[0].machine}" not in table
    assert f"; {found[0].machine}" in ledger_table([*found, *verdicts(tmp_path / "none")]).data
    hostile = ledger_table([replace(found[0], reason="<script>alert(1)</script>")]).data
    assert "<script>" not in hostile and "&lt;script&gt;" in hostile
    assert str(found[0]).startswith("sm120-torch: not settled here: this run has no findings/stack")
