"""Where no page has a truth: every setting is held against what one of them read, which is agreement and not truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ocrlab.reading.settings import Settings, make_settings
from ocrlab.scoring.clean import clean
from ocrlab.study.experiment import Store
from ocrlab.study.records import rows_of

if TYPE_CHECKING:
    import pandas as pd

#: What `truth_source` says where the truth is another setting's reading.
REFERENCE = "reference"
_EXACT = {"float32": 3, "auto": 2, "bfloat16": 1, "float16": 0}

Record = Mapping[str, Any]


def with_reference(records: Sequence[Record]) -> tuple[list[Record], dict[tuple[str, str], Settings]]:
    """Return the records with a reference's texts as truths, and the reference of each machine and model.

    Where any page of a machine and model has a truth, its records stay as they are, and it has no reference; so do
    pages that the reference did not read to their end. The reference is the setting that read the most pages; of
    several, the one with the most exact dtype, no quantization, the largest pixel budget, and one page at a time.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record["asked"].get("min_new_tokens") is None and record["asked"].get("weights") == "pretrained":
            groups.setdefault((str(record["machine"]), str(record["asked"]["model_id"])), []).append(record)
    found: dict[tuple[str, str], Settings] = {}
    texts: dict[tuple[str, str, str], str] = {}
    for group, mine in groups.items():
        read = [record for record in mine if record["status"] == "ok"]
        if not read or any(isinstance(record.get("truth"), str) for record in mine):
            continue
        by_setting: dict[Settings, dict[str, str]] = {}
        for record in read:
            by_setting.setdefault(make_settings(record["asked"]), {})[record["page_sha256"]] = record["text"]
        found[group] = max(by_setting, key=lambda one: (len(by_setting[one]), *_exactness(one)))
        texts |= {(*group, page): clean(text).text for page, text in by_setting[found[group]].items()}
    held = [
        record if text is None else {**record, "truth": text, "truth_source": REFERENCE}
        for record in records
        for text in [texts.get((str(record["machine"]), str(record["asked"]["model_id"]), record["page_sha256"]))]
    ]
    return held, found


def _exactness(settings: Settings) -> tuple[int, bool, float, bool, int]:
    pixels = float("inf") if settings.max_pixels is None else settings.max_pixels
    greedy = settings.do_sample is False
    return _EXACT[settings.dtype], settings.quantization is None, pixels, greedy, -settings.batch_size


def against_reference(rows: pd.DataFrame, experiment: str) -> tuple[pd.DataFrame, str]:
    """Return an experiment's rows, scored against a reference where no page has a truth, and a sentence that says so.

    The sentence is empty where there is a truth, or nothing was read.
    """
    import pandas as pd

    if rows.empty or ("cer_edits" in rows and rows["cer_edits"].notna().any()):
        return rows, ""
    known = Store(experiment).readings.by_key
    held, references = with_reference([known[key] for key in rows["key"]])
    return (pd.DataFrame(rows_of(held)), words(references)) if references else (rows, "")


def words(references: Mapping[tuple[str, str], Settings]) -> str:
    """Return what figures are held against where no page has a truth, in a sentence; empty without a reference."""
    if not references:
        return ""
    names = "; ".join(
        ", ".join(f"{name}={value!s:.40}" for name, value in one.changed().items() if name != "model_id") or "defaults"
        for one in references.values()
    )
    return (
        f"No page has a truth, so every setting is held against what one of them read ({names}): CER and words found "
        "are agreement with it, and say nothing of what it misread."
    )
