"""How many pages fit the minutes; and what `MODEL=` asks for: is that model to be had, which values suit it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ocrlab.commands.parameters import CommandError, check, read_parameters
from ocrlab.machine.describe import Choice, choose_device, choose_dtype
from ocrlab.machine.hardware import emulated
from ocrlab.reading.settings import Settings, is_endpoint
from ocrlab.scoring.outcomes import WITH_TEXT

if TYPE_CHECKING:
    from ocrlab.commands.plan import ForModel, Task

#: What a whole page takes, for a prediction of its seconds: tokens of text, and image tokens on a card and on a CPU.
PAGE_TOKENS, PAGE_IMAGE_TOKENS, CPU_IMAGE_TOKENS = 600, 1280, 448
#: How many times the floor a real step takes: on a card the launches of kernels bound it (35 tokens/s on an A100, 5 %
#: of its floor, by Qwen2-VL's own table), so that no step is taken to be shorter than 0.025 s there.
OVER_FLOOR, SHORTEST_STEP_S = 2.0, 0.025
#: Minutes where none are asked for: on a card or a server, and on a CPU.
MINUTES, CPU_MINUTES = 30.0, 60.0
_TRIAL_TOKENS = 64
#: Minutes for the embedded reader's `cpu` profile, and the fewest pages that are read to keep to them.
PROFILE_MINUTES, LEAST_PAGES = 10.0, 2
#: Seconds that the embedded reader took for four lines on the machine whose `cpu_s` stand in experiments.yaml (LOG.md).
REFERENCE_S = 0.17
_PAGES = {"pages", "pages_per_set"}


@dataclass(frozen=True)
class Model:
    """A model that was found to be there: its dtype here, an image token's area in pixels, seconds per whole page."""

    model_id: str
    dtype: Choice
    cell_pixels: int
    page_s: Choice
    on_cpu: bool

    @property
    def seconds(self) -> float:
        """Seconds that a whole page is expected to take."""
        return float(self.page_s.value)


def check_model(model_id: str) -> Model:
    """Return what a run needs to know of a model, after it was found to be there, allowed, and small enough.

    A Hub id that is not in the cache is downloaded now; a server reads one page.

    Raises:
        CommandError: a server that does not answer, or a model that does not fit; the message gives the remedy.
        CheckpointError: no such model, not reachable, or one that must not be loaded.
    """
    return _on_server(model_id) if is_endpoint(model_id) else _here(model_id)


def _on_server(model_id: str) -> Model:
    from ocrlab.pages import load_pages
    from ocrlab.reading.loading import Unsupported
    from ocrlab.reading.reader import open_reader
    from ocrlab.reading.server_client import EndpointError

    try:
        with open_reader(Settings(model_id=model_id, max_new_tokens=_TRIAL_TOKENS)) as reader:
            reading = reader.read(load_pages("documents", limit=1)[0])
            cell = reader.builder.cell_pixels
    except (EndpointError, Unsupported) as error:
        raise CommandError(f"MODEL={model_id}: {error}") from error
    if reading.status not in WITH_TEXT:
        raise CommandError(f"MODEL={model_id}: the first page was not read ({reading.status}: {reading.reason})")
    seconds = (reading.ttft_s or reading.page_s or 0.0) + (reading.tpot_s or 0.0) * PAGE_TOKENS
    dtype = Choice("auto", "a server decides it when it is started")
    return Model(model_id, dtype, cell, Choice(f"{seconds:.3g}", "one page was read there just now"), False)


def _here(model_id: str) -> Model:
    from ocrlab.machine.hardware import CONTEXT_BYTES, measured_machine
    from ocrlab.reading.checkpoints import CheckpointError, locate
    from ocrlab.reading.limits import predict, shapes_of
    from ocrlab.reading.loading import image_processor_of

    device = choose_device("auto").value
    on_cpu, dtype = device == "cpu", fastest_dtype(device)
    settings = Settings(model_id=model_id, dtype=dtype.value, max_new_tokens=PAGE_TOKENS)  # type: ignore[arg-type]
    found = locate(settings)
    if re.fullmatch(r"[0-9a-f]{40}", found.revision):
        settings = replace(settings, revision=found.revision)  # what is pinned is not looked for on the Hub again
    cell = found.family.cell_pixels(image_processor_of(found))
    try:
        shapes_of(settings)
    except CheckpointError as error:  # a family whose memory is not modelled
        return Model(model_id, dtype, cell, Choice("20", f"not predicted: {error}"), on_cpu)
    machine = measured_machine(dtype.value, device)
    least = predict(settings, 256, machine)
    if not least.fits:
        wanted = (least.memory.peak_bytes + (0 if on_cpu else CONTEXT_BYTES)) / 2**30
        raise CommandError(
            f"MODEL={model_id}: it takes {wanted:.1f} GiB in {dtype.value} for a page of 256 image tokens, and "
            f"{machine.name} has {machine.memory_bytes / 2**30:.1f}; choose a smaller model (`ocrlab fit` lists what "
            "fits), or read it from a server"
        )
    floors = predict(settings, CPU_IMAGE_TOKENS if on_cpu else PAGE_IMAGE_TOKENS, machine).floors
    assert floors is not None
    step = max(OVER_FLOOR * floors.tpot_s, 0.0 if on_cpu else SHORTEST_STEP_S)
    seconds = OVER_FLOOR * (floors.vision_s + floors.prefill_s) + PAGE_TOKENS * step
    return Model(model_id, dtype, cell, Choice(f"{seconds:.3g}", "predicted from its shapes"), on_cpu)


def fastest_dtype(device: str) -> Choice:
    """Return the dtype for a model of billions of parameters: on a CPU bfloat16 where that is measured to be faster."""
    if device == "cpu" and not emulated("bfloat16"):
        return Choice("bfloat16", "this processor multiplies faster in it than in float32")
    return choose_dtype("auto", device)


def fit_profile(tasks: list[Task], given: dict[str, Any], minutes: float) -> tuple[list[Task], list[str]]:
    """Return the `cpu` profile's tasks on the embedded reader as they suit this processor, and what to say of it.

    Where bfloat16 is emulated, little is read in it; where the notebooks would take longer than `minutes`, they read
    fewer pages. What a person gave (`given`) stays.
    """
    usual_s = sum(task.experiment.cpu_s for task in tasks if not task.skipped)
    if not usual_s:
        return tasks, []
    slow, pace = emulated("bfloat16"), measure_pace()
    share = min(1.0, 60 * minutes / (usual_s * pace))
    words = [f"about {usual_s * pace / 60:.0f} minutes: a page takes {pace:.1f} times the reference's time here"]
    words += ["bfloat16 is emulated on this processor: little is read in it"] if slow else []
    words += [f"to end within {minutes:g} minutes, {share:.0%} of the usual pages are read"] if share < 1 else []
    return [_suited(task, given, slow, share) for task in tasks], words


def _suited(task: Task, given: dict[str, Any], slow: bool, share: float) -> Task:
    known = read_parameters(task.experiment.notebook)
    own = task.parameters | (task.experiment.emulated if slow else {})
    for name in _PAGES & set(known) if share < 1 else ():
        if pages := own.get(name, known[name].default):
            own[name] = min(pages, max(LEAST_PAGES, int(pages * share)))
    mine = {name: value for name, value in given.items() if name in known}
    return replace(task, parameters=check(task.experiment.notebook, own | mine))


def measure_pace() -> float:
    """Return how many times as long as on the reference machine the embedded reader takes for a page here."""
    from ocrlab.pages import load_pages
    from ocrlab.reading.reader import open_reader

    pages = load_pages("lines", limit=4)
    with open_reader(Settings()) as reader:
        return min(sum(r.page_s or 0.0 for r in reader.read(pages)) for _ in range(3)) / REFERENCE_S


def fit_tasks(
    tasks: list[Task], model: Model, given: dict[str, Any], minutes: float, named: bool
) -> tuple[list[Task], list[str]]:
    """Return the tasks with the values and as many pages as suit the model and the minutes, and a line on each.

    What does not fit the minutes is skipped with the reason, the least important first; `named` ones (ONLY=) stay, and
    so does what a person gave (`given`). Seconds are those of `Model`, so the minutes are about right at best.
    """
    kind: Literal["cpu", "gpu"] = "cpu" if model.on_cpu else "gpu"
    sizes = {t.experiment.name: t.experiment.model[kind] for t in tasks if kind in t.experiment.model and not t.skipped}
    left, kept = 60 * minutes, {}
    for name, one in sorted(sizes.items(), key=lambda pair: pair[1].rank):
        if named or _seconds(one, one.least_pages, model) <= left:
            kept[name] = one
            left -= _seconds(one, one.least_pages, model)
    room = sum(_seconds(one, one.most_pages, model) - _seconds(one, one.least_pages, model) for one in kept.values())
    share = min(1.0, max(0.0, left) / room) if room else 0.0
    fitted, words = [], []
    for task in tasks:
        name, known = task.experiment.name, read_parameters(task.experiment.notebook)
        mine = {key: value for key, value in given.items() if key in known}
        if name in kept:
            one = kept[name]
            pages = mine.get("pages", one.least_pages + int(share * (one.most_pages - one.least_pages)))
            new = {"pages": pages, "dtype": model.dtype.value} | _in_pixels(one.parameters, model.cell_pixels)
            new = {key: value for key, value in new.items() if key in known}
            task = replace(task, parameters=check(task.experiment.notebook, task.parameters | new | mine))
            about = f"up to {pages} pages × about {one.readings} settings, " if one.readings else ""
            words.append(f"{name}: {about}about {_seconds(one, pages, model) / 60:.0f} min")
        elif name in sizes:
            why = f"left out for time: about {_seconds(sizes[name], sizes[name].least_pages, model) / 60:.0f} min"
            task = replace(task, skipped=f"{why}; give more MINUTES=, or ONLY={name}")
        elif "model_id" in known and not task.skipped and not named:
            where = "on a CPU" if model.on_cpu else "with MODEL="
            task = replace(task, skipped=f"left out {where}, for time; ONLY={name} runs it")
        words += [f"{name}: {task.skipped}"] if task.skipped else []
        fitted.append(task)
    return fitted, words


def _seconds(one: ForModel, pages: int, model: Model) -> float:
    return 60 * one.minutes + pages * one.readings * model.seconds


def _in_pixels(parameters: dict[str, Any], cell_pixels: int) -> dict[str, Any]:
    """Return the parameters with budgets in image tokens as the pixels that give so many."""
    found = {}
    for name, value in parameters.items():
        if name.startswith("max_image_tokens"):
            name = name.replace("max_image_tokens", "max_pixels")
            value = [tokens * cell_pixels for tokens in value] if isinstance(value, list) else value * cell_pixels
        found[name] = value
    return found
