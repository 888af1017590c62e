"""What a notebook found out about the machine, kept beside the rows of its run: one JSONL file a question."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ocrlab import paths
from ocrlab.machine.describe import machine_name, versions
from ocrlab.study.records import read_records, record_files

if TYPE_CHECKING:
    import pandas as pd


def keep_findings(name: str, found: Iterable[Mapping[str, Any]], folder: Path | None = None) -> pd.DataFrame:
    """Write the lines to the run's `findings/<name>.jsonl`, each with machine and versions, and return them as a table.

    Findings are about the machine as it is now: an earlier file of that name is replaced.
    """
    import pandas as pd

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    here = {key: value for key, value in versions().items() if key in {"python", "torch", "transformers"}}
    lines = [{k: plain(v) for k, v in line.items()} | {"machine": machine_name()} | here for line in found]
    file = (folder or paths.run_folder()) / "findings" / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(
        "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines), encoding="utf-8"
    )
    part.replace(file)
    file.with_name(file.name + ".gz").unlink(missing_ok=True)  # what a finished run packed
    return pd.DataFrame(lines)


def load_findings(name: str, folder: Path | None = None) -> pd.DataFrame:
    """Return a run's findings of a name as a table; empty where there are none.

    Raises:
        RecordError: the file is damaged; the message names it and the line.
    """
    import pandas as pd

    files = record_files((folder or paths.run_folder()) / "findings", name)
    return pd.DataFrame([line for file in files for line in read_records(file)])
