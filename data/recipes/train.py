"""Train the embedded reader: `python -m data.recipes.train --images 1500000 --decay-images 500000`.

The run writes `log.jsonl` and every few minutes its state, to `stable.pt` before the learning rate decays and to
`decaying.pt` after. Started again with the same folder it goes on from `decaying.pt`, else from `stable.pt`: to train
longer at the full rate, remove the first. At the end it writes the checkpoint to `--export`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Qwen2VLForConditionalGeneration

from data.recipes.architecture import CELL, build_model, build_tokenizer, save_checkpoint
from data.recipes.batches import SLOTS, Batches, stage_at
from data.recipes.forward import Trainee, image_features

SYSTEM = "<|im_start|>system\n{system}<|im_end|>\n"
BEFORE = "<|im_start|>user\n<|vision_start|>"
AFTER = "<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"


class Trainer:
    """Model, optimizers and how far they have come: `batch` batches and `images` images."""

    def __init__(self, seed: int, learning_rate: float, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.seed, self.learning_rate, self.device = seed, learning_rate, torch.device(device)
        self.tokenizer = build_tokenizer()
        self.trainee = Trainee(build_model(self.tokenizer)).to(self.device)
        matrices: list[torch.Tensor] = []
        rest: list[torch.Tensor] = []
        for name, weight in self.trainee.named_parameters():
            inner = weight.ndim == 2 and ("blocks" in name or "merger" in name or "layers" in name)
            (matrices if inner else rest).append(weight)
        self.optimizers = [
            torch.optim.Muon(
                matrices, lr=learning_rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        # What is saved as the reader: the weights' running mean over some 500 steps, steadier than the last ones.
        self.average = AveragedModel(self.trainee, multi_avg_fn=get_ema_multi_avg_fn(0.998))
        self.batch = self.images = self.started = 0
        self.seconds = 0.0

    def state(self) -> dict[str, Any]:
        return {
            "trainee": self.trainee.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "batch": self.batch,
            "images": self.images,
            "seconds": self.seconds,
            "seed": self.seed,
        }

    def resume(self, file: Path) -> None:
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.trainee.load_state_dict(state["trainee"])
        self.average.load_state_dict(state["average"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.batch, self.images, self.seconds = state["batch"], state["images"], state["seconds"]

    def start_from(self, folder: Path) -> None:
        """Take a checkpoint's weights and, from its `curve.jsonl`, how far it had come; the optimizers begin anew."""
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        averaged: Any = self.average.module
        for mine in (self.trainee.model, averaged.model):
            mine.load_state_dict(model.state_dict())
        last = json.loads((folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        self.batch, self.images, self.seconds = last["batch"], last["images"], 60 * last["minutes"]
        self.started = self.batch

    def step(self, item: dict[str, Any], rate: float) -> dict[str, float]:
        """Take one optimizer step on a batch; return its losses."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * rate
        stage = stage_at(self.images)
        pixels = item["pixels"].to(self.device)
        grid = (pixels.shape[1] // CELL, pixels.shape[2] // CELL)
        losses = {}
        with self.device, torch.autocast(self.device.type, torch.bfloat16):
            features = image_features(self.trainee.model.model.visual, pixels)
            index = torch.tensor([(i * grid[0] * grid[1] + cell) * SLOTS + slot for i, cell, slot, _ in item["glyphs"]])
            labels = torch.tensor([self._ids(character)[0] for *_, character in item["glyphs"]])
            empty: Any = self.tokenizer.convert_tokens_to_ids("<|endoftext|>")
            losses["glyph"], right = self.trainee.glyph_loss(features, index, labels, empty)
            if stage.decoder:
                before = (SYSTEM.format(**item) if item["system"] else "") + BEFORE
                after = AFTER.format(**item)
                losses["answer"] = self.trainee.answer_loss(
                    features, grid, torch.tensor(self._ids(before)), torch.tensor(self._ids(after)), self._answers(item)
                )
        total = losses["glyph"] if not stage.decoder else losses["answer"] + 0.3 * losses["glyph"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.trainee)
        self.batch += 1
        self.images += len(pixels)
        return {name: float(loss.detach()) for name, loss in losses.items()} | {"glyph_accuracy": float(right)}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def _answers(self, item: dict[str, Any]) -> torch.Tensor:
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        rows = [torch.tensor([*self._ids(text), end]) for text in item["texts"]]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)


class _Order:
    """Yields (batch index, images seen) for the loader; images are counted a little ahead of the trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.first = trainer, trainer.batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        index = self.first
        while True:
            yield index, self.trainer.images
            index += 1


class Neighbours:
    """Watches how busy other processes keep the cores, so that a training in the background gives way.

    Two threads that share one core wait for each other at every operation: on two cores with one busy neighbour a
    step took 20 times as long as with a single thread (LOG.md).
    """

    def __init__(self) -> None:
        self.own, self.cores = psutil.Process(), psutil.cpu_count() or 1
        self.last = self._read()

    def free_cores(self) -> int:
        """Return how many cores others left free since the last call, at least one."""
        now = self._read()
        wall, busy, own = (b - a for a, b in zip(self.last, now, strict=True))
        self.last = now
        return max(1, round(self.cores - (busy - own) / wall)) if wall > 0 else self.cores

    def _read(self) -> tuple[float, float, float]:
        all_times, mine = psutil.cpu_times(), [self.own, *self.own.children()]
        used = sum(sum(process.cpu_times()[:2]) for process in mine)
        return time.monotonic(), sum(all_times) - all_times.idle - getattr(all_times, "iowait", 0.0), used


def _quiet(worker: int) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(1)


def rate_at(images: int, batches: int, total: int, decay: int) -> float:
    """Return the learning rate's factor: 100 batches up, flat, then linear down to 0.02 over the last images."""
    return min(1.0, (batches + 1) / 100) * max(0.02, min(1.0, (total - images) / max(decay, 1)))


def _forget_after(log: Path, batch: int) -> None:
    """Drop log lines of steps that a stopped run took after its last checkpoint: they are taken again."""
    if log.exists():
        lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
        log.write_text("".join(line for line in lines if json.loads(line)["batch"] <= batch), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Train until `--images` have been seen or `--minutes` are over, then write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/train"))
    parser.add_argument("--export", type=Path, default=Path("build/train/checkpoint"))
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from, where --out has no run of its own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many, to go on another time")
    parser.add_argument("--images", type=int, default=1_500_000)
    parser.add_argument("--decay-images", type=int, default=500_000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=20261123)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args.seed, args.learning_rate, args.device)
    states = [args.out / "decaying.pt", args.out / "stable.pt"]
    state = next((file for file in states if file.exists()), None)
    if state:
        trainer.resume(state)
        _forget_after(args.out / "log.jsonl", trainer.batch)
    elif args.start:
        trainer.start_from(args.start)
        shutil.copy(args.start / "curve.jsonl", args.out / "log.jsonl")
    loader: DataLoader[dict[str, Any]] = DataLoader(
        Batches(args.seed),  # type: ignore[arg-type]
        sampler=_Order(trainer),
        batch_size=None,
        num_workers=1,
        prefetch_factor=12,
        worker_init_fn=_quiet,
    )
    sums: dict[str, list[float]] = {}
    neighbours = Neighbours()
    began = logged = saved = time.monotonic()
    before, over = trainer.seconds, False
    with (
        (args.out / "log.jsonl").open("a", encoding="utf-8") as log,
        tqdm(total=args.images, initial=trainer.images) as bar,
    ):
        for item in loader:
            torch.set_num_threads(neighbours.free_cores())
            rate = rate_at(trainer.images, trainer.batch - trainer.started, args.images, args.decay_images)
            for name, loss in trainer.step(item, rate).items():
                sums.setdefault(name, []).append(loss)
            bar.update(len(item["texts"]))
            now = time.monotonic()
            trainer.seconds = before + now - began
            if now - logged > 30:
                means = {name: round(sum(v) / len(v), 4) for name, v in sums.items()}
                row = {
                    "minutes": round(trainer.seconds / 60, 2),
                    "batch": trainer.batch,
                    "images": trainer.images,
                    "rate": round(rate, 4),
                }
                print(json.dumps(row | means), file=log, flush=True)
                bar.set_postfix(means)
                sums, logged = {}, now
            over = now - began > 60 * args.minutes and trainer.images < args.images
            if now - saved > 180 or over:
                file = states[args.images - trainer.images > args.decay_images]
                torch.save(trainer.state(), file.with_suffix(".part"))
                file.with_suffix(".part").replace(file)
                saved = now
            if trainer.images >= args.images or over:
                break
    if not over:
        torch.save(trainer.state(), args.out / "final.pt")
    averaged: Any = trainer.average.module
    save_checkpoint(averaged.model, trainer.tokenizer, args.export)


if __name__ == "__main__":
    main()
