"""What to measure on a card that is lent for minutes: `python -m data.recipes.gpu_campaign STEP… --out FOLDER`.

The steps are in `gpu_campaign.yaml`. Rows are in the run `FOLDER/card` (`FOLDER/small` with `--small`), what each part
printed in its `logs`, and what came of each in `campaign.json`. Started again, a part that is done is passed over, one
that was cut off goes on. No file is above 16 MiB: a larger one is cut into `NAME.cut-00`, …, and joined when needed.
It runs from the tree. Notebooks need papermill there, and the training needs wordfreq and the fonts of `fonts.yaml`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from ocrlab.machine.describe import versions
from ocrlab.paths import MODELS, ROOT, write_whole

STEPS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
PARTS: dict[str, Any] = {name: part for step in STEPS.values() for name, part in step["parts"].items()}
MOST_BYTES = 16 * 2**20
_GRACE_S, _TO_WRITE_S = 20, 30


def run_step(step: str, out: Path, size: str, minutes: float | None = None) -> None:
    """Run the step's parts that are not done, each in a process of its own, and note in `campaign.json` what came."""
    ends = time.monotonic() + 60 * (minutes or STEPS[step]["minutes"]) - (0 if minutes else _TO_WRITE_S)
    for name, part in STEPS[step]["parts"].items():
        before = read_notes(out).get(f"{size}/{name}", {})
        if before.get("status") == "done" and not part.get("again"):
            note = before | {"passed_over": True}
        elif ends <= time.monotonic():
            note = before | {"status": "not begun", "reason": f"the minutes of {step} were over"}
        else:
            note = _run_part(name, out / size, ends - time.monotonic(), before)
        notes = read_notes(out) | {f"{size}/{name}": {"step": step} | note}
        write_whole(out / "campaign.json", json.dumps(notes, indent=1, ensure_ascii=False).encode())


def _run_part(name: str, folder: Path, limit_s: float, before: dict[str, Any]) -> dict[str, Any]:
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "data.recipes.gpu_campaign", "--do", name, "--out", str(folder.parent)]
    command += ["--small"] * (folder.name == "small")
    began = time.monotonic()
    with log.open("ab") as said:
        start = said.tell()
        own = {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "TQDM_DISABLE": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | own, stdout=said, stderr=said)
        try:
            status = "failed" if process.wait(limit_s) else "done"
        except subprocess.TimeoutExpired:
            status = "cut off"
            end(process)
    said_now = log.read_bytes()[start:].decode(errors="replace").strip() or "nothing was said"
    reason = said_now.splitlines()[-1].strip()[-300:]
    note = {"status": status, "reason": reason, "exit_code": process.returncode, "versions": versions()}
    return note | {"seconds": round(time.monotonic() - began, 1), "tries": before.get("tries", 0) + 1}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part as Ctrl-C does, so that it keeps what it has; after a while end it and all that it started."""
    started = psutil.Process(process.pid).children(recursive=True)  # kernels have sessions of their own
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    process.kill()
    for child in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def read_notes(out: Path) -> dict[str, Any]:
    """Return what came of each part so far, by `card/NAME` or `small/NAME`."""
    file = out / "campaign.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def join(folder: Path) -> None:
    """Put files together again that `cut` took apart."""
    for first in list(folder.rglob("*.cut-00")):
        whole = first.with_suffix("")
        pieces = sorted(first.parent.glob(f"{whole.name}.cut-*"))
        write_whole(whole, b"".join(piece.read_bytes() for piece in pieces))
        for piece in pieces:
            piece.unlink()


def cut(folder: Path, most: int = MOST_BYTES) -> None:
    """Cut each file of more than `most` bytes into pieces of so many, beside it."""
    for file in [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size > most]:
        data = file.read_bytes()
        for number, at in enumerate(range(0, len(data), most)):
            write_whole(file.with_name(f"{file.name}.cut-{number:02}"), data[at : at + most])
        file.unlink()


# What a part does, in its own process. Values are those of `gpu_campaign.yaml`.


def tests(folder: Path) -> int:
    """Run the tests that need a GPU; only their files, since other tests import what may not be installed there."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]
    options = ["-q", "-m", "gpu", "-rA", "-p", "no:cacheprovider", f"--junitxml={folder / 'gpu-tests.xml'}"]
    return subprocess.run([sys.executable, "-m", "pytest", *options, *files], check=False).returncode


def doctor(folder: Path) -> int:
    """Say what is wrong with the installation; that something is, is a finding and no failure."""
    return int(subprocess.run([sys.executable, "-m", "ocrlab", "doctor"], check=False).returncode > 1)


def notebook(folder: Path, name: str, **values: Any) -> int:
    """Run a notebook as `make reproduce` does."""
    from ocrlab.commands.reproduce import reproduce
    from ocrlab.study.provenance import read_record

    params = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
    profile = "smoke" if folder.name == "small" else "gpu"
    code = reproduce(profile, only=name, run=folder.name, params=params, results=folder.parent)
    came = read_record(folder)["notebooks"][name]
    print(name, came["status"], came["cell"], came["reason"])
    return code


def memory(folder: Path, model_id: str, dtypes: list[str], image_tokens: list[int]) -> int:
    """Hold predicted against measured memory for each variant of attention, at true shapes with random weights."""
    from ocrlab import Settings
    from ocrlab.experiments.attention import all_variants
    from ocrlab.experiments.limits import compare_memory
    from ocrlab.study.records import keep_findings, load_findings, setting_label

    name, base = "memory-true-shapes", Settings(model_id=model_id, weights="dummy")
    for run in all_variants(base, dtypes):
        kept, label = _lines(load_findings(name, folder)), setting_label(run.as_dict())
        if label not in {line["label"] for line in kept}:
            found = compare_memory([run], image_tokens).assign(label=label)
            keep_findings(name, [*kept, *_lines(found)], folder)
            print(found[["label", "image_tokens", "ratio", "status", "reason"]].to_string(), flush=True)
    ratio = load_findings(name, folder)["ratio"].dropna()
    print(f"predicted over measured: {ratio.min():.2f} to {ratio.max():.2f} ({len(ratio)} points)")
    return int(ratio.empty)


def decode(
    folder: Path, base: dict[str, Any], batch_sizes: list[int], caches: list[dict[str, Any]], new_tokens: int
) -> int:
    """Time decoding by batch and cache, and hold it against the bandwidth floor; fast-path counts operators."""
    from ocrlab import Settings, load_pages
    from ocrlab.experiments.limits import against_floor, on_this
    from ocrlab.machine.hardware import measured_machine
    from ocrlab.study.records import keep_findings
    from ocrlab.study.speed import run_speed

    start = Settings(**base, weights="dummy")
    pages = load_pages("labels", limit=max(batch_sizes))
    machine, floors = measured_machine(start.dtype, on_this(start).device), []
    for size in batch_sizes:  # one after another: what is there when time ends is whole
        runs = [replace(start, batch_size=size, **cache) for cache in caches]
        rows = run_speed("decode-true-shapes", runs, pages[:size], new_tokens=new_tokens, folder=folder)
        floors += _lines(against_floor(rows, machine))
        keep_findings("decode-floor-true-shapes", floors, folder)
        by_cache = rows.groupby(["batch_size", "cache_implementation", "compile"], dropna=False)
        print(by_cache["tpot_s"].median(), flush=True)
    print(f"{len(floors)} of {len(batch_sizes) * len(caches)} settings could be timed")
    return int(not floors)


def vision(folder: Path, base: dict[str, Any], attentions: list[str], image_tokens: list[int], repeats: int) -> int:
    """Time the vision part as it is and compiled, on blank pages of some image tokens."""
    import torch
    from PIL import Image
    from torch.utils.benchmark import Timer

    from ocrlab import Settings
    from ocrlab.reading.reader import Reader
    from ocrlab.study.records import keep_findings

    lines: list[dict[str, Any]] = []
    for attention in attentions:
        reader = Reader(Settings(**(base | {"attn_implementation": attention}), weights="dummy"))
        tower, side = reader.model.get_submodule(reader.family.vision), round(reader.builder.cell_pixels**0.5)
        pages = {}
        for count in image_tokens:
            reader.builder.set_limits(count * side**2, count * side**2)
            made = reader.tensors(Image.new("RGB", (side * 32, side * count // 32), "white"))
            pages[count] = (made["pixel_values"].to(tower.dtype), made["image_grid_thw"])
        for how in ("as it is", "compiled"):
            if how == "compiled":
                tower.compile(dynamic=True)
            for count, (pixels, grid) in pages.items():
                names = {"tower": tower, "pixels": pixels, "grid": grid, "torch": torch}
                code = "with torch.inference_mode(): tower(pixels, grid_thw=grid)"
                timer = Timer(code, globals=names, num_threads=torch.get_num_threads())
                timer.timeit(1)
                seconds = timer.timeit(repeats).mean
                lines.append({"attention": attention, "how": how, "image_tokens": count, "vision_s": seconds})
                keep_findings("vision-compiled-true-shapes", lines, folder)
                print(lines[-1], flush=True)
        reader.close()
    return 0


def train(folder: Path, minutes: float, device: str) -> int:
    """Go on with the embedded reader's training for so many minutes, and say what it lacks for documents."""
    from data.recipes.batches import Stage
    from data.recipes.train import main as train_reader

    values = ["--minutes", str(minutes), "--device", device, "--images", "2000000", "--start", str(MODELS / "tiny")]
    train_reader([*values, "--out", str(folder / "train"), "--export", str(folder / "train" / "checkpoint")])
    if not any("document" in field.name for field in fields(Stage)):
        print("trained on lines and labels: documents are not in the curriculum (data/recipes/batches.py)")
    return 0


def _lines(table: Any) -> list[dict[str, Any]]:
    return list(table.to_dict("records"))


def main(arguments: list[str] | None = None) -> int:
    """Run the steps named (all, where none is), print what came of each part, and return 0 where all are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", choices=[[], *STEPS])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="numbers for a CPU, to try the steps")
    parser.add_argument("--minutes", type=float, help="for each step, in place of its own")
    parser.add_argument("--do", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    out, size = args.out.absolute(), "small" if args.small else "card"
    if args.do:
        part = PARTS[args.do]
        do = globals()[part["do"]] if "do" in part else notebook
        return int(do(out / size, **part.get(size, {}), **({} if "do" in part else {"name": args.do})))
    out.mkdir(parents=True, exist_ok=True)
    join(out)
    for step in args.steps or STEPS:
        run_step(step, out, size, args.minutes)
        cut(out)
    notes = {name.split("/")[1]: note for name, note in read_notes(out).items() if name.startswith(size)}
    for name, n in notes.items():
        print(f"{n['step']:<8} {name:<20} {n['status']:<10} {n.get('seconds', 0):>6.0f} s  {n['reason'][:90]}")
    return int(any(note["status"] != "done" for note in notes.values()))


if __name__ == "__main__":
    sys.exit(main())
