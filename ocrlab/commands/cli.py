"""The command line: read pages, reproduce the notebooks, rebuild a site, doctor, upgrade.

Each command imports what it needs when it runs, so that `ocrlab --help` comes at once.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from ocrlab.commands.setting_flags import takes_settings

_Json = Annotated[bool, Option("--json", help="one JSON object per line on standard output, all else on error")]
_Limit = Annotated[int | None, Option(help="only the first so many pages of each path")]
_Quarantined = Annotated[bool, Option("--quarantined", help="read even with a setting that the canary caught")]
_Preset = Annotated[
    str | None,
    Option(
        "--preset",
        "--settings",
        metavar="NAME|FILE",
        help="a preset, a YAML file, or recommended: what the newest "
        "run on this machine recommends (default: tiny; for a server, none)",
    ),
]
_Run = Annotated[str, Argument(help="the folder's name in results/, or a path")]
_Engine = Annotated[Literal["local", "ray"], Option(help="ray: on the machines of a cluster")]
_Address = Annotated[str | None, Option(help="the Ray cluster's (default: RAY_ADDRESS, else one is started here)")]
_Profile = Literal["smoke", "cpu", "gpu"]
_Port = Annotated[int | None, Option(help="default: the first free one from Jupyter's own on")]
_NoBrowser = Annotated[bool, Option("--no-browser", help="print the address and open nothing")]


def _end(code: int) -> None:
    raise typer.Exit(code)


app = typer.Typer(
    help="Read pages with Qwen2-VL and measure it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    result_callback=_end,
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 something failed, 2 unusable arguments, 130 Ctrl-C."""
    try:
        app(arguments, prog_name="ocrlab")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@app.command()
@takes_settings
def read(
    paths: Annotated[list[str], Argument(help="a set, folder, file, glob or URL; -: a list of paths")],
    given: dict[str, str],
    out: Annotated[Path | None, Option(metavar="FOLDER", help="text files and readings.jsonl go there")] = None,
    beside: Annotated[bool, Option("--beside", help="text files go beside the pages, as NAME.png.txt")] = False,
    as_json: _Json = False,
    limit: _Limit = None,
    dpi: Annotated[int, Option(help="at which PDF pages are drawn")] = 150,
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
) -> int:
    """Read images and PDFs: a set, folders, files, globs, or a list on standard input.

    Prints each page's text as it comes, then CER where truth lies beside. With --out the texts go to files that mirror
    the input, and everything measured to readings.jsonl there; the same command goes on where it was stopped. Exit
    code 0: every page was read; 1: some failed; 2: unusable arguments; 130: stopped. Every setting is a flag of the
    same name.
    """
    args = SimpleNamespace(**locals())
    from ocrlab.commands.read import read_pages

    return read_pages(args)


@app.command()
def reproduce(
    profile: Annotated[_Profile | None, Option(help="default: gpu where there is one, else cpu")] = None,
    model: Annotated[str | None, Option(help="tiny, a folder, or a Hub id (which may be downloaded)")] = None,
    only: Annotated[str | None, Option(help="notebook names, separated by commas")] = None,
    run: Annotated[str | None, Option(help="the folder's name in results/; an existing one goes on")] = None,
    params: Annotated[str, Option(help="notebook parameters, e.g. 'max_pixels_values=[50176, 100352]'")] = "",
    engine: _Engine = "local",
    address: _Address = None,
) -> int:
    """Run the notebooks and build the site."""
    from ocrlab.commands.reproduce import reproduce

    return reproduce(profile, model, only, run, params, engine=engine, address=address)


@app.command()
def report(run: _Run) -> int:
    """Build a run's site again without running anything."""
    from ocrlab.commands.exchange import rebuild_site

    return rebuild_site(run)


@app.command()
def share(
    run: _Run,
    with_images: Annotated[str | None, Option(metavar="FOLDER", help="with your own pages from there")] = None,
    to: Annotated[str | None, Option(metavar="FILE.zip", help="default: RUN.zip where you are")] = None,
) -> int:
    """Pack a run as one zip, without what names a person."""
    from ocrlab.commands.exchange import share_run

    return share_run(run, with_images, to)


@app.command()
def add(
    file: Annotated[str, Argument(metavar="FILE.zip")],
    name: Annotated[str | None, Option("--as", help="the run's name here (default: its own)")] = None,
) -> int:
    """Check a shared zip and put its run into results/."""
    from ocrlab.commands.exchange import add_run

    return add_run(file, name)


@app.command()
def verify(
    run: Annotated[str | None, Argument(help="the folder's name in results/, or a path (default: the newest)")] = None,
    share: Annotated[float, Option(help="how much of the pages, 3 at least")] = 0.1,
    seed: Annotated[int, Option(help="which pages are drawn")] = 0,
    only: Annotated[str, Option(help="names of experiments, separated by commas (default: all)")] = "",
    pages: Annotated[str, Option(metavar="FOLDER", help="where the run's pages lie, if not in our sets")] = "",
) -> int:
    """Read a random tenth of a run's pages again and compare the texts."""
    from ocrlab.commands.exchange import verify

    return verify(run, share, seed, only, pages)


@app.command()
def ready(
    run: Annotated[
        str | None, Option(help="the folder's name in results/, or a path (default: the newest of this machine)")
    ] = None,
    threshold: Annotated[float, Option(help="share of the measured weight")] = 0.8,
) -> int:
    """Is this machine ready? Checks over a run's rows.

    Exit code 0: the share of the measured weight that passes reaches the threshold; 1: it does not; 2: unusable run or
    arguments.
    """
    from ocrlab.commands.checks import ready_run

    return ready_run(run, threshold)


@app.command()
@takes_settings
def soak(
    given: dict[str, str],
    minutes: Annotated[float, Option(help="how long; one whole pass at least")] = 60,
    count: Annotated[int, Option(help="and so many readings at least")] = 0,
    pages: Annotated[str, Option(help="a set, folder, file or glob")] = "lines",
    limit: _Limit = None,
    run: Annotated[str | None, Option(help="a folder in results/, made if new (default: your newest run)")] = None,
    quarantined: _Quarantined = False,
    preset: _Preset = None,
) -> int:
    """Read pages again and again: does memory grow, does a text change?

    Exit code 0: nothing failed, changed or grew; 1: something did; 2: unusable arguments. Every setting is a flag of
    the same name.
    """
    args = SimpleNamespace(**locals())
    from ocrlab.commands.checks import soak_run

    return soak_run(args)


@app.command()
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
    from ocrlab.commands.servers import serve_model

    return serve_model(model, port, device=device, dtype=dtype, attention=attention, with_parent=with_parent)


@app.command()
def doctor(as_json: Annotated[bool, Option("--json", help="the lines as a JSON list")] = False) -> int:
    """Say what is wrong with this installation, and what to do."""
    import json

    from ocrlab.machine.doctor import as_dicts, examine, exit_code

    lines = examine()
    if as_json:
        print(json.dumps(as_dicts(lines), ensure_ascii=False, indent=1))
    for line in lines if not as_json else []:
        remedy = f"\n         → {line.remedy}" if line.remedy else ""
        print(f"{line.level:<8} {line.check}: {line.found}{remedy}")
    return exit_code(lines)


@app.command()
def fit(
    model: Annotated[str, Option(help="a known Hub id, or a folder")] = "Qwen/Qwen2-VL-2B-Instruct",
    card: Annotated[list[str] | None, Option(help="a card's name, several times for several (default: all)")] = None,
    preset: Annotated[str | None, Option(help="a preset whose settings are taken, not the model's alone")] = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
    batch_size: Annotated[int, Option("--batch_size", "--batch-size")] = 1,
    max_new_tokens: Annotated[int, Option("--max_new_tokens", "--max-new-tokens")] = 1024,
    as_json: _Json = False,
) -> int:
    """Will a model fit a card? Memory and time floors, before any download."""
    from ocrlab.commands.checks import fit

    return fit(model, card, preset, dtype, batch_size, max_new_tokens, as_json)


@app.command()
def upgrade(
    names: Annotated[list[str] | None, Argument(help="packages; all when none is given")] = None,
    yes: Annotated[bool, Option("--yes", help="swap without asking where all went well")] = False,
    take: Annotated[str, Option(metavar="STAMP", help="swap a candidate that an earlier upgrade left")] = "",
) -> int:
    """Try newer versions in a second environment, then offer to swap."""
    pass

    return upgrade(names or [], yes, take)


@app.command()
def rollback() -> int:
    """Go back to the environment before the last upgrade."""
    pass

    return rollback()


@app.command("app")
def open_app(
    preset: Annotated[str | None, Option(help="a preset's name or a YAML file to begin with (default: tiny)")] = None,
    port: _Port = None,
    no_browser: _NoBrowser = False,
) -> int:
    """Open the playground as a page: pick, read, compare (this computer only)."""
    from ocrlab.commands.servers import serve_app

    return serve_app(preset, port, not no_browser)


@app.command()
def lab(port: _Port = None, no_browser: _NoBrowser = False) -> int:
    """Open JupyterLab at the welcome page (this computer only)."""
    from ocrlab.commands.servers import serve_lab

    return serve_lab(port, not no_browser)


@app.command()
def refresh(notebooks: Annotated[list[str] | None, Argument(help="names without .ipynb (default: all)")] = None) -> int:
    """Write the source notebooks' checked outputs again."""
    from ocrlab.commands.run_notebook import refresh

    return refresh(notebooks or [])
