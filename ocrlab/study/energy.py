"""Joules a page of settings that are read here, where a GPU tells its power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocrlab.machine.describe import choose_device, machine_name
from ocrlab.machine.power import PowerMeter
from ocrlab.pages import load_pages, set_names
from ocrlab.reading.isolated import Refused
from ocrlab.reading.pool import ReaderPool
from ocrlab.study.findings import keep_findings

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("machine", "set", "label", "pages", "seconds", "joules_a_page", "watts", "how", "reason")


def measure_power(costs: pd.DataFrame, pages: int) -> pd.DataFrame:
    """Return one line for each of this machine's costs (`page_costs`), its setting read again: joules a page and watts.

    So many pages of the cost's own set are read, after a first batch that is not counted; joules are the whole card's.
    Where nothing tells the power nothing is read, and the line has the reason. Kept as findings `power`.
    """
    import pandas as pd

    mine = costs[costs["machine"] == machine_name()]
    keys = ["set", "label"]
    lines = [_line(cost, pages) for _, cost in mine.drop_duplicates(keys).iterrows()]
    return pd.DataFrame(keep_findings("power", lines), columns=list(_COLUMNS))


def _line(cost: pd.Series, pages: int) -> dict[str, Any]:
    settings = cost["settings"]
    line = dict.fromkeys(_COLUMNS[3:]) | {"set": cost["set"], "label": cost["label"]}
    try:
        device = choose_device(settings.device).value
    except ValueError as error:
        return line | {"reason": f"not measured: {error}"}
    with PowerMeter(device) as there:
        pass
    if not device.startswith("cuda") or there.energy.reason.startswith("not measured"):
        return line | {"reason": there.energy.reason}
    names = str(cost["set"]).split(" + ")  # as `rows_here` joins them
    if not set(names) <= set(set_names()):
        return line | {"reason": f"not measured: its pages ({cost['set']}) are no set of this checkout"}
    some = [page for name in names for page in load_pages(name, spread=-(-pages // len(names)))]
    try:
        with ReaderPool(settings) as pool:
            list(pool.read(some[: settings.batch_size]))
            with PowerMeter(device) as meter:
                results = list(pool.read(some))
    except Refused as error:
        return line | {"reason": f"not measured: {error}"}
    spent, read = meter.energy, sum(result.reading.page_s is not None for result in results)
    each = spent.joules / read if spent.joules is not None and read else None
    return line | {"pages": read, "seconds": spent.seconds, "joules_a_page": each, "watts": spent.watts,
                   "how": spent.how, "reason": spent.reason}  # fmt: skip
