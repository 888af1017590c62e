"""The command line: read pages, reproduce the notebooks, rebuild a site, doctor, upgrade.

Each command imports what it needs when it runs, so that `ocrlab --help` comes at once.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from ocrlab.commands.setting_flags import takes_settings

_Json = Annotated[bool, Option("--json", help="one JSON object per line on standard output, all else on error")]
_Limit = Annotated[int | None, Option(help="only the first so many pages of each path")]
_Dpi = Annotated[int | None, Option(help="at which PDF pages are drawn (default: as large as max_pixels keeps)")]
_Quarantined = Annotated[bool, Option("--quarantined", help="read even with a quarantined setting")]
_PRESET_HELP = (
    "a preset, a YAML file, or recommended: what the newest run here recommends (default: tiny; a server: none)"
)
_Preset = Annotated[str | None, Option("--preset", "--settings", metavar="NAME|FILE", help=_PRESET_HELP)]
_Run = Annotated[str, Argument(help="the folder's name in results/, or a path")]
_Engine = Annotated[Literal["local", "ray"], Option(help="ray: on the machines of a cluster")]
_Address = Annotated[str | None, Option(help="the Ray cluster's (default: RAY_ADDRESS, else one is started here)")]
_Profile = Literal["smoke", "cpu", "gpu"]
_Port = Annotated[int | None, Option(help="default: the first free one from Jupyter's own on")]
_NoBrowser = Annotated[bool, Option("--no-browser", help="print the address and open nothing")]

#: Errors whose text says what to do: a person gets it without a traceback.
_MENDABLE = (
    *("commands.parameters:CommandError", "machine.hardware:UnknownCard", "pages:PageError"),
    *("reading.checkpoints:CheckpointError", "reading.isolated:Refused", "reading.loading:Unsupported"),
    *("reading.settings:SettingError", "report.share:ShareError", "study.records:RecordError"),
)


app = typer.Typer(
    help="Read pages with Qwen2-VL and measure it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 something failed, 2 unusable arguments, 130 Ctrl-C."""
    _write_every_letter()
    try:
        app(arguments, prog_name="ocrlab")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _write_every_letter() -> None:
    """Let a file or pipe get UTF-8 on Windows, too: by its code page the first Cyrillic letter would end a reading."""
    for stream in (sys.stdout, sys.stderr) if sys.platform == "win32" else ():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


def _command(target: str = "", name: str | None = None) -> Callable[[Callable[..., int | None]], None]:
    """Register a command: its flags are the decorated function's, its work is `module:function` of this room.

    The function returns the exit code; an error that a person can mend becomes a message. A command that takes `given`
    gets every setting as a flag. Without a target the decorated function works itself.
    """

    def register(command: Callable[..., int | None]) -> None:
        @functools.wraps(command)
        def run(**options: Any) -> None:
            module, _, function = target.partition(":")
            try:
                works = getattr(import_module(f"ocrlab.commands.{module}"), function) if target else command
                code: int = works(**options) or 0
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)
                code = 130
            except tuple(resolve_name(f"ocrlab.{name}") for name in _MENDABLE) as error:  # imported once there is one
                print(error, file=sys.stderr)
                code = getattr(error, "exit_code", 2)
            raise typer.Exit(code)

        app.command(name)(takes_settings(run) if "given" in inspect.signature(command).parameters else run)

    return register


@_command("read:read_pages")
def read(
    paths: Annotated[list[str], Argument(help="a set, folder, file, glob, URL or hub:owner/name; -: a list of paths")],
    given: dict[str, str],
    out: Annotated[Path | None, Option(metavar="FOLDER", help="text files and readings.jsonl go there")] = None,
    beside: Annotated[bool, Option("--beside", help="text files go beside the pages, as NAME.png.txt")] = False,
    as_json: _Json = False,
    limit: _Limit = None,
    dpi: _Dpi = None,
    truth: Annotated[Literal["beside", "pdf"], Option(help="pdf: also from PDFs' text layers")] = "beside",
    degrade: Annotated[Literal["scan"] | None, Option(help="scan: pages as if scanned or photographed")] = None,
    truth_encoding: Annotated[str, Option(help="of text files beside pages, e.g. cp1251")] = "utf-8",
    dry_run: Annotated[bool, Option("--dry-run", help="print pages, memory and time; read nothing")] = False,
    retry_failed: Annotated[bool, Option("--retry-failed", help="read again what failed before")] = False,
    fewer_pixels: Annotated[bool, Option("--fewer-pixels", help="retry what does not fit at fewer pixels")] = False,
    workers: Annotated[str, Option(metavar="N|DEVICES", help="a number, or e.g. cuda:0,cuda:1 (default: all)")] = "",
    prepare: Annotated[int, Option(metavar="N", help="processes that open pages, per worker")] = 1,
    engine: _Engine = "local",
    address: _Address = None,
    page_timeout: Annotated[float, Option(metavar="SECONDS", help="per batch")] = 1800,
    quarantined: _Quarantined = False,
    preset: _Preset = None,
) -> None:
    """Read images and PDFs: a set, folders, files, globs, or a list on standard input.

    Prints each page's text as it comes, then CER where the truth is beside the page. With --out the texts go to files
    that mirror the input, and everything measured to readings.jsonl there; the same command resumes. Exit
    code 0: every page was read; 1: some failed; 2: unusable arguments; 130: stopped. Every setting is a flag of the
    same name.
    """


@_command("library:list_truths", "truth")
def truths(paths: Annotated[list[str], Argument(help="a set, folder, file, glob or URL")], dpi: _Dpi = None) -> None:
    """How many pages have a truth: in a file, in their PDF's text layer, or none, and why."""


@_command("reproduce:reproduce")
def reproduce(
    profile: Annotated[_Profile | None, Option(help="default: gpu where there is one, else cpu")] = None,
    model: Annotated[str | None, Option(help="tiny, a folder, or a Hub id (which may be downloaded)")] = None,
    only: Annotated[str | None, Option(help="notebook names, separated by commas")] = None,
    run: Annotated[str | None, Option(help="the folder's name in results/; an existing run is resumed")] = None,
    params: Annotated[str, Option(help="notebook parameters, e.g. 'max_pixels_values=[50176, 100352]'")] = "",
    engine: _Engine = "local",
    address: _Address = None,
    minutes: Annotated[float | None, Option(help="with --model: about how long (default: 30; 60 on a CPU)")] = None,
) -> None:
    """Run the notebooks and build the site."""


@_command("exchange:rebuild_site")
def report(run: _Run) -> None:
    """Build a run's site again without running anything."""


@_command("exchange:share_run")
def share(
    run: _Run,
    with_images: Annotated[str | None, Option(metavar="FOLDER", help="with your own pages from there")] = None,
    to: Annotated[str | None, Option(metavar="FILE.zip", help="default: RUN.zip where you are")] = None,
) -> None:
    """Pack a run as one zip, without what names a person."""


@_command("exchange:add_run")
def add(
    file: Annotated[str, Argument(metavar="FILE.zip")],
    name: Annotated[str | None, Option("--as", help="the run's name here (default: its own)")] = None,
) -> None:
    """Check a shared zip and put its run into results/."""


@_command("exchange:verify")
def verify(
    run: Annotated[str | None, Argument(help="the folder's name in results/, or a path (default: the newest)")] = None,
    share: Annotated[float, Option(help="the share of the pages to read, 3 pages at least")] = 0.1,
    seed: Annotated[int, Option(help="which pages are drawn")] = 0,
    only: Annotated[str, Option(help="names of experiments, separated by commas (default: all)")] = "",
    pages: Annotated[str, Option(metavar="FOLDER", help="where the run's pages are, if not in our sets")] = "",
) -> None:
    """Read a random tenth of a run's pages again and compare the texts."""


@_command("checks:ready_run")
def ready(
    run: Annotated[str | None, Option(help="the folder's name in results/, or a path (default: newest here)")] = None,
    threshold: Annotated[float, Option(help="share of the measured weight")] = 0.8,
) -> None:
    """Is this machine ready? Checks over a run's rows.

    Exit code 0: the share of the measured weight that passes reaches the threshold; 1: it does not; 2: unusable run or
    arguments.
    """


@_command("checks:soak_run")
def soak(
    given: dict[str, str],
    minutes: Annotated[float, Option(help="how long; one whole pass at least")] = 60,
    count: Annotated[int, Option(help="and so many readings at least")] = 0,
    pages: Annotated[str, Option(help="a set, folder, file or glob")] = "lines",
    limit: _Limit = None,
    run: Annotated[str | None, Option(help="a folder in results/, made if new (default: your newest run)")] = None,
    quarantined: _Quarantined = False,
    preset: _Preset = None,
) -> None:
    """Read pages again and again: does memory grow, does a text change?

    Exit code 0: nothing failed, changed or grew; 1: something did; 2: unusable arguments. Every setting is a flag of
    the same name.
    """


@_command()
def serve(
    model: Annotated[str, Option(help="tiny, a folder or a Hub id")] = "tiny",
    port: Annotated[int, Option()] = 8000,
    device: Annotated[str, Option()] = "auto",
    dtype: Annotated[str, Option(help="auto: what a reader in this process takes")] = "auto",
    attention: Annotated[str, Option("--attn_implementation", "--attn-implementation")] = "sdpa",
    with_parent: Annotated[bool, Option("--with-parent", help="end when standard input closes")] = False,
) -> int:
    """Serve a model to this computer: transformers' own server, without torchvision.

    An OpenAI-compatible server on 127.0.0.1 until it is stopped. Read with it: ocrlab read --model_id
    endpoint:http://127.0.0.1:PORT/v1#MODEL. Exit code 2: it cannot be served here.
    """
    from ocrlab.commands.parameters import CommandError
    from ocrlab.reading.serve import serve

    try:
        serve(model, port, device=device, dtype=dtype, attention=attention, with_parent=with_parent)
    except (OSError, ValueError) as error:  # transformers' own
        raise CommandError(str(error)) from error
    return 0


@_command()
def doctor(as_json: Annotated[bool, Option("--json", help="the lines as a JSON list")] = False) -> int:
    """Say what is wrong with this installation, and what to do."""
    import json
    from dataclasses import asdict

    from ocrlab import paths
    from ocrlab.experiments.limits import measured_facts
    from ocrlab.machine.doctor import examine

    runs = sorted(paths.runs_in(paths.RESULTS), key=lambda run: run.stat().st_mtime)
    lines = examine(next(filter(None, map(measured_facts, reversed(runs))), {}))
    if as_json:
        print(json.dumps(list(map(asdict, lines)), ensure_ascii=False, indent=1))
    for line in lines if not as_json else []:
        remedy = f"\n         → {line.remedy}" if line.remedy else ""
        print(f"{line.level:<8} {line.check}: {line.found}{remedy}")
    return int(any(line.level == "problem" for line in lines))


@_command("checks:fit")
def fit(
    model: Annotated[str, Option(help="a known Hub id, or a folder")] = "Qwen/Qwen2-VL-2B-Instruct",
    cards: Annotated[
        list[str] | None, Option("--card", help="a card's name; may be repeated (default: RTX 50)")
    ] = None,
    memory_gib: Annotated[list[float] | None, Option(help="a card of so much memory; may be repeated")] = None,
    every: Annotated[bool, Option("--all", help="all cards that are known")] = False,
    preset: Annotated[str | None, Option(help="a preset whose settings are taken, not the model's alone")] = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
    batch_size: Annotated[int, Option("--batch_size", "--batch-size")] = 1,
    max_new_tokens: Annotated[int, Option("--max_new_tokens", "--max-new-tokens")] = 1024,
    as_json: _Json = False,
) -> None:
    """Will a model fit a card? Memory and time floors, before any download."""


@_command("upgrade:upgrade")
def upgrade(
    names: Annotated[list[str] | None, Argument(help="packages; all when none is given")] = None,
    yes: Annotated[bool, Option("--yes", help="swap without asking where all went well")] = False,
    take: Annotated[str, Option(metavar="STAMP", help="swap a candidate that an earlier upgrade left")] = "",
) -> None:
    """Try newer versions in a second environment, then offer to swap."""


@_command("upgrade:rollback")
def rollback() -> None:
    """Go back to the environment before the last upgrade."""


@_command("servers:serve_app", "app")
def open_app(
    preset: Annotated[str | None, Option(help="a preset's name or a YAML file to begin with (default: tiny)")] = None,
    port: _Port = None,
    no_browser: _NoBrowser = False,
) -> None:
    """Open the playground as a page: pick, read, compare (this computer only)."""


@_command("servers:serve_lab")
def lab(port: _Port = None, no_browser: _NoBrowser = False) -> None:
    """Open JupyterLab at the welcome page (this computer only)."""


@_command("run_notebook:refresh")
def refresh(names: Annotated[list[str] | None, Argument(help="names without .ipynb (default: all)")] = None) -> None:
    """Write the source notebooks' checked outputs again."""
