"""A run as a small web site that opens from disk, and the index over all runs; no network, nothing is run."""

from __future__ import annotations

import hashlib
import html
import re
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup, escape
from pygments.formatters import HtmlFormatter

from ocrlab import paths
from ocrlab.report import evidence
from ocrlab.report.notebook import NotebookPage, headline_lines, link_figures, render_notebook, slug
from ocrlab.scoring.metrics import shown_metrics
from ocrlab.study.provenance import read_json
from ocrlab.study.records import asks_to_read

_HERE = Path(__file__).parent
_OUTCOMES = {
    "ok": "completed",
    "error": "failed",
    "crashed": "failed: the kernel died",
    "timeout": "failed: out of time",
    "interrupted": "interrupted",
    "skipped": "skipped",
}
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$@:<>&-])")

_NAME = re.compile(r"\w[\w.+-]{0,99}")
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_PLAIN = re.compile(r"[A-Za-z_/.][\w/.-]*")
_YAML_WORDS = {"null", "true", "false", "~"}
# What a shell or make would act on inside double quotes.
_ACTIVE = re.compile(r'["$`\\!]')


def build_site(run_folder: Path) -> Path:
    """Return the `index.html` made in a run's folder from its `run.json`, `notebooks/` and `readings/`.

    Beside it come a page for each notebook with its images in `figures/` (the notebooks then link to them: each is
    stored once), `readings.html`, one `style.css`, and `report.md` with the same content for a code host. Everything
    shown is escaped or sanitised: pages hold text that a model read.

    Raises:
        OSError: the folder cannot be written to.
    """
    record, run = read_json(run_folder / "run.json"), run_folder.name
    # A run from elsewhere is not mixed with readings of this machine: its notebooks run again beside it.
    target = f"{run}-here" if "added" in record else run
    items = [_item(name, entry, run_folder, target) for name, entry in _entries(record, run_folder)]
    _drop_old_figures(run_folder / "figures", items)
    _write_style(run_folder)
    pages = _html_templates()
    for item in (item for item in items if item["page"]):
        _write(run_folder / f"{item['name']}.html", pages, "page.html.j2", item=item, record=record, run=run)
        link_figures(run_folder / "notebooks" / f"{item['name']}.ipynb", item["page"].figures)
    usable = evidence.usable_readings(run_folder)
    readings = [one for one in usable if asks_to_read(one["asked"])]
    if readings:
        sheets = evidence.sheets_of(readings, run_folder)
        outcomes = list(dict.fromkeys(reading.outcome for sheet in sheets for reading in sheet.readings))
        values = {"sheets": sheets, "outcomes": outcomes, "unread": evidence.unread_settings(readings), "run": run}
        _write(run_folder / "readings.html", pages, "readings.html.j2", **values)
    lines = evidence.settings_lines(usable)
    values = {
        "answer": answer_of(run_folder),
        "items": items,
        "record": record,
        "run": run,
        "counts": evidence.count_readings(run_folder),
        "lines": lines,
        "metrics": {
            name: one for name, one in shown_metrics().items() if any(line[name] is not None for line in lines)
        },
        "readings": len(readings),
        "begun": evidence.begun(record),
    }
    _write(run_folder / "report.md", _markdown_templates(), "report.md.j2", **values)
    return _write(run_folder / "index.html", pages, "index.html.j2", **values)


def answer_of(run_folder: Path) -> list[str]:
    """Return what 08-recommendation answered in a run, line by line; where it did not, what would give an answer."""
    file = run_folder / "notebooks" / "08-recommendation.ipynb"
    with suppress(OSError, ValueError, AttributeError, KeyError):  # absent, or no notebook: its own entry says so
        if lines := headline_lines(nbformat.read(file, as_version=4)):
            return lines
    again = command_of(file.stem, run_folder.name, None, {})
    return [f"No answer in this run yet: 08-recommendation gives one ({again or 'run it in this run'})."]


def build_overview(results: Path) -> Path:
    """Return the `index.html` over all runs, made from their `run.json` and readings; the newest run comes first.

    Raises:
        OSError: the folder cannot be written to.
    """
    runs = [_overview_line(folder) for folder in paths.runs_in(results)]
    runs.sort(key=lambda run: (run["started"], run["name"]), reverse=True)
    _write_style(results)
    return _write(results / "index.html", _html_templates(), "overview.html.j2", runs=runs)


def command_of(notebook: str, run: str, profile: Any, parameters: Mapping[str, Any]) -> str:
    """Return the command that runs a notebook again with these parameters in a run, or "" where none can be given.

    It is `make reproduce …`; where a value holds what make or a shell would act on, the same through Python, quoted.
    None is given for names that are no names, or values with control characters: they come from elsewhere.
    """
    if not (_NAME.fullmatch(notebook) and _NAME.fullmatch(run)):
        return ""
    given = {name: value for name, value in parameters.items() if _NAME.fullmatch(str(name))}
    model = given.get("model_id")
    words = {"ONLY": notebook, "RUN": run}
    if profile in ("smoke", "cpu", "gpu"):
        words["PROFILE"] = str(profile)
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        words["MODEL"] = given.pop("model_id")  # a Hub id as MODEL= may be downloaded
    if given:
        words["PARAMS"] = "; ".join(f"{name}={_flow_style(value)}" for name, value in given.items())
    if not all(text.isprintable() for text in words.values()):
        return ""
    if any(_ACTIVE.search(text) for text in words.values()):
        flags = " ".join(f"--{name.lower()} {shlex.quote(text)}" for name, text in words.items())
        return f"python -m ocrlab reproduce {flags}"
    quoted = (f'{name}="{text}"' if name == "PARAMS" else f"{name}={text}" for name, text in words.items())
    return f"make reproduce {' '.join(quoted)}"


def _flow_style(value: Any) -> str:
    """Return a parameter's value as PARAMS= takes it: YAML's flow style."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow_style, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow_style(k)}: {_flow_style(v)}" for k, v in value.items()) + "}"
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _YAML_WORDS):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


def _entries(record: dict[str, Any], run_folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the notebooks by name with what the record says: those of the record first, as they ran."""
    known = record.get("notebooks")
    entries = {str(name): entry for name, entry in known.items()} if isinstance(known, dict) else {}
    for file in sorted((run_folder / "notebooks").glob("*.ipynb")):
        if not file.name.endswith(".part.ipynb"):
            entries.setdefault(file.stem, {})
    return [(name, entry if isinstance(entry, dict) else {}) for name, entry in entries.items()]


def _item(name: str, entry: dict[str, Any], run_folder: Path, target: str) -> dict[str, Any]:
    name = Path(name).name
    file = run_folder / "notebooks" / f"{name}.ipynb"
    page, problem = None, ""
    try:
        page = render_notebook(file, run_folder / "figures") if file.is_file() else None
    except ValueError as error:
        problem = str(error)
    status = str(entry.get("status", "not recorded"))
    parameters = asked if isinstance(asked := entry.get("parameters"), dict) else {}
    command = command_of(name, target, entry.get("profile"), page.parameters if page else parameters)
    return {
        "name": name,
        "title": page.title if page else name,
        "page": page,
        "html": Markup(_with_command(page, command)) if page else "",  # sanitised; the command escaped
        "status": status,
        "words": _OUTCOMES.get(status, status),
        "reason": problem or str(entry.get("reason", "")),
        "failed": status not in ("ok", "skipped", "not recorded"),
        "cell": str(entry.get("cell", "")),
        "seconds": entry.get("seconds"),
        "parameters": parameters,
        "command": command,
    }


def _with_command(page: NotebookPage, command: str) -> str:
    """Return a notebook's HTML with the command beside every figure of its outputs."""
    if not command:
        return page.html
    files = {figure.file for figure in page.figures}
    shown = f'<details class="again"><summary>make it again</summary><code>{escape(command)}</code></details>'
    image = r'<img [^>]*src="figures/([\w.%-]+)"[^>]*>'
    return re.sub(image, lambda m: m[0] + (shown if m[1] in files else ""), page.html)


def _drop_old_figures(folder: Path, items: list[dict[str, Any]]) -> None:
    """Delete images of an earlier build that no page shows any more; figures that notebooks saved stay."""
    for item in (item for item in items if item["page"]):
        kept = {figure.file for figure in item["page"].figures}
        for file in folder.glob("*"):
            ours = re.fullmatch(re.escape(slug(item["name"])) + r"-\d+-\d+\.(?:png|jpg)", file.name)
            if ours and file.name not in kept:
                file.unlink()


def _overview_line(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "run.json")
    states = Counter(str(entry.get("status", "not recorded")) for _, entry in _entries(record, folder / "none"))
    readings = sum((Counter(statuses) for statuses in evidence.count_readings(folder).values()), Counter())
    return {
        "name": folder.name,
        "started": evidence.begun(record),
        "record": record,
        "states": states,
        "failed": sum(states.values()) - states["ok"] - states["skipped"] - states["not recorded"],
        "readings": readings.total(),
        "not_ok": readings.total() - readings["ok"],
    }


def _html_templates() -> Environment:
    """Return the environment of the pages: autoescaped, with one small script that only its own hash lets run."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=ChainableUndefined)
    environment.loader = FileSystemLoader(_HERE)
    # Inline and pinned: a policy that allowed script files from disk would allow every file on that disk.
    script = (_HERE / "site.js").read_text(encoding="utf-8")
    environment.globals["script"] = Markup(script)  # our own file
    environment.globals["script_hash"] = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.filters |= {"duration": _duration, "amount": _amount, "clock": _clock}
    return environment


def _markdown_templates() -> Environment:
    """Return the environment of `report.md`: every value is one line of text that stays text on a code host."""
    environment = _html_templates()
    environment.autoescape, environment.finalize = False, _markdown_text
    environment.filters["fenced"] = _fenced
    return environment


def _write(file: Path, environment: Environment, template: str, **values: Any) -> Path:
    text = environment.get_template(template).render(**values)
    file.write_text(text, encoding="utf-8", newline="\n")
    return file


def _write_style(folder: Path) -> None:
    """Write the style sheet, with the colours of code in both themes, as `style.css` beside the pages."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("friendly", "github-dark"))
    css = (_HERE / "site.css").read_text(encoding="utf-8")
    css += f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    (folder / "style.css").write_text(css, encoding="utf-8", newline="\n")


def _markdown_text(value: Any) -> str:
    """Return text in one line that neither Markdown nor HTML takes for more than text; `Markup` as it is."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split())
    return _MARKDOWN.sub(lambda m: html.escape(m[1]) if m[1] in "<>&" else f"\\{m[1]}", text)


def _fenced(command: str) -> Markup:
    fence = "`" * (3 + max(map(len, re.findall("`+", command)), default=0))
    return Markup(f"{fence}sh\n{command}\n{fence}")


def _duration(seconds: Any) -> str:
    """Return seconds for reading, such as `1 min 32 s`; empty for what is no number."""
    if not isinstance(seconds, int | float):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _clock(time: Any) -> str:
    """Return an ISO time less its seconds: `2026-11-23 13:31 +00:00`."""
    return re.sub(r"^(.{10})T(\d\d:\d\d)(?::[\d.]+)?", r"\1 \2 ", str(time))


def _amount(value: Any, name: str) -> str:
    """Return a value for reading, bytes as GiB by its name."""
    if str(name).endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB"
    return "none" if value is None else str(value)
