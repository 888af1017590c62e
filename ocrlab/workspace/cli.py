"""The command line: read pages, reproduce the notebooks, rebuild a site, doctor, upgrade."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ocrlab.workspace.exchange import add_exchange
from ocrlab.workspace.read import add_read
from ocrlab.workspace.ready import add_ready
from ocrlab.workspace.serve import add_serve
from ocrlab.workspace.soak import add_soak


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 something failed, 2 unusable arguments."""
    args = _parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ocrlab", description="Read pages with Qwen2-VL and measure it.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_read(commands)
    run = commands.add_parser("reproduce", help="run the notebooks and build the site")
    run.add_argument("--profile", choices=["smoke", "cpu", "gpu"], help="default: gpu where there is one, else cpu")
    run.add_argument("--model", help="tiny, a folder, or a Hub id (which may be downloaded)")
    run.add_argument("--only", help="notebook names, separated by commas")
    run.add_argument("--run", help="the folder's name in results/; an existing one goes on where it stopped")
    run.add_argument("--params", default="", help="notebook parameters, e.g. 'max_pixels_values=[50176, 100352]'")
    run.add_argument("--engine", choices=["local", "ray"], default="local", help="ray: over the machines of a cluster")
    run.add_argument("--address", help="the Ray cluster's (default: RAY_ADDRESS, else one is started here)")
    run.set_defaults(command=_reproduce)
    report = commands.add_parser("report", help="build a run's site again without running anything")
    report.add_argument("run", help="the folder's name in results/, or a path")
    report.set_defaults(command=_report)
    add_exchange(commands)
    add_ready(commands)
    add_soak(commands)
    add_serve(commands)
    doctor = commands.add_parser("doctor", help="what is wrong with this installation, and what to do")
    doctor.add_argument("--json", action="store_true", help="the lines as a JSON list")
    doctor.set_defaults(command=_doctor)
    fit = commands.add_parser("fit", help="will a model fit a card? memory and time floors, before any download")
    fit.add_argument(
        "--model", default="Qwen/Qwen2-VL-2B-Instruct", help="a Hub id that the package knows, or a folder"
    )
    fit.add_argument("--card", action="append", help="a card's name, several times for several (default: all known)")
    fit.add_argument("--preset", help="a preset whose settings are taken instead of the model's alone")
    fit.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    fit.add_argument("--batch_size", "--batch-size", type=int, default=1)
    fit.add_argument("--max_new_tokens", "--max-new-tokens", type=int, default=1024)
    fit.add_argument("--json", action="store_true", help="one object a card, attention and pixel budget")
    fit.set_defaults(command=_fit)
    newer = commands.add_parser("upgrade", help="try newer versions in a second environment, then offer to swap")
    newer.add_argument("names", nargs="*", help="packages; all when none is given")
    newer.add_argument("--yes", action="store_true", help="swap without asking where all went well")
    newer.add_argument("--take", default="", metavar="STAMP", help="swap a candidate that an earlier upgrade left")
    newer.set_defaults(command=_upgrade)
    back = commands.add_parser("rollback", help="go back to the environment before the last upgrade")
    back.set_defaults(command=_rollback)
    app = commands.add_parser("app", help="the playground as a page: pick, read, compare (this computer only)")
    app.add_argument("--preset", help="a preset's name or a YAML file to begin with (default: tiny)")
    lab = commands.add_parser("lab", help="JupyterLab at the welcome page (this computer only)")
    for server, command in ((app, _app), (lab, _lab)):
        server.add_argument("--port", type=int, help="default: the first free one from Jupyter's own on")
        server.add_argument("--no-browser", action="store_true", help="print the address and open nothing")
        server.set_defaults(command=command)
    refresh = commands.add_parser("refresh", help="write the source notebooks' checked outputs again")
    refresh.add_argument("notebooks", nargs="*", help="names without .ipynb; all when none is given")
    refresh.set_defaults(command=_refresh)
    return parser


def _reproduce(args: argparse.Namespace) -> int:
    from ocrlab.workspace.reproduce import reproduce

    return reproduce(
        args.profile, args.model, args.only, args.run, args.params, engine=args.engine, address=args.address
    )


def _refresh(args: argparse.Namespace) -> int:
    from ocrlab.workspace.refresh import refresh

    return refresh(args.notebooks)


def _fit(args: argparse.Namespace) -> int:
    from ocrlab.workspace.fit import fit

    return fit(args.model, args.card, args.preset, args.dtype, args.batch_size, args.max_new_tokens, args.json)


def _upgrade(args: argparse.Namespace) -> int:
    from ocrlab.commands.upgrade import upgrade

    return upgrade(args.names, args.yes, args.take)


def _rollback(args: argparse.Namespace) -> int:
    from ocrlab.commands.upgrade import rollback

    return rollback()


def _app(args: argparse.Namespace) -> int:
    from ocrlab.workspace.servers import serve_app

    return serve_app(args.preset, args.port, not args.no_browser)


def _lab(args: argparse.Namespace) -> int:
    from ocrlab.workspace.servers import serve_lab

    return serve_lab(args.port, not args.no_browser)


def _report(args: argparse.Namespace) -> int:
    from ocrlab import paths
    from ocrlab.report.overview import build_overview
    from ocrlab.report.site import build_site
    from ocrlab.workspace.provenance import read_record, readings_record, write_record

    folder = Path(args.run) if Path(args.run).is_dir() else paths.RESULTS / args.run
    if not (folder / "run.json").is_file():
        known = [run.name for run in paths.runs_in(paths.RESULTS)]
        print(f"{folder}: no run.json there; the runs here are: {', '.join(known) or 'none yet'}", file=sys.stderr)
        return 2
    if record := read_record(folder):
        write_record(folder, record | readings_record(folder))
    print(build_site(folder))
    if folder.parent == paths.RESULTS:
        build_overview(paths.RESULTS)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    import json

    from ocrlab.machine.doctor import as_dicts, examine, exit_code

    lines = examine()
    if args.json:
        print(json.dumps(as_dicts(lines), ensure_ascii=False, indent=1))
    else:
        for line in lines:
            print(
                f"{line.level:<8} {line.check}: {line.found}" + (f"\n         → {line.remedy}" if line.remedy else "")
            )
    return exit_code(lines)
