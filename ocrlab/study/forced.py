"""A page with a given answer through a model in one pass: the logits at every position, and how far two of them are.

Called in a worker's process, whose reader stays loaded from page to page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ocrlab.machine.kernels import pinned
from ocrlab.pages import Page
from ocrlab.reading.isolated import reader_here
from ocrlab.reading.reader import Reader
from ocrlab.reading.settings import Settings

if TYPE_CHECKING:
    import torch

Prepare = Callable[[], None]
_BLOCK = 32  # positions compared at once: with 150,000 tokens in the vocabulary, some 40 MB a float64 copy


def keep_reference(settings: Settings, page: Page, file: Path) -> None:
    """Read a page greedily here and keep the answer's tokens and the logits of one pass over them in a file."""
    with tf32(False):  # cuDNN's convolutions use it by default, and the patches pass through one
        reader = reader_here(settings)
        tokens = answer_tokens(reader, page)
        logits, _ = forced_logits(reader, page, tokens)
    if not bool(logits.isfinite().all()):
        raise ArithmeticError("the reference's own logits hold NaN or infinity; see reader.trace_nonfinite(page)")
    np.savez(file, tokens=np.array(tokens), logits=logits.numpy())


def answer_tokens(reader: Reader, page: Page) -> list[int]:
    """Return the tokens of a page's answer as the reader's settings generate it, the end's token included."""
    import torch

    tensors = reader.tensors(page.open())
    with torch.inference_mode(), pinned(reader.settings.sdpa_kernel):
        output = reader.model.generate(**tensors)
    return [int(token) for token in output[0, tensors["input_ids"].shape[1] :]]


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let float32 products and convolutions use TF32 inside the block, or forbid it; other devices do not mind."""
    import torch

    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = on
    try:
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            place.allow_tf32 = was


def distance_here(settings: Settings, page: Page, file: Path, prepare: Prepare | None = None) -> dict[str, Any]:
    """Return the distances of a setting's logits here from the reference's in the file, and the weights' size."""
    import torch

    if prepare is not None:
        prepare()
    kept = np.load(file)
    reader = reader_here(settings)
    logits, image_tokens = forced_logits(reader, page, kept["tokens"].tolist())
    found = distance(logits, torch.from_numpy(kept["logits"]))
    return found | {"image_tokens": image_tokens, "weight_bytes": reader.weight_bytes}


def forced_logits(reader: Reader, page: Page, tokens: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Return a page's logits at each position of a given answer, (tokens, vocabulary) in float32, and its image tokens.

    Row i is what the model says after the prompt and `tokens[:i]`.
    """
    import torch
    from torch.nn.functional import pad

    inputs = reader.builder.build([page.open()], reader.settings.prompt)
    tensors = dict(inputs.tensors)
    config = reader.model.config
    places = {config.image_token_id, config.video_token_id}  # random weights say them; in a prompt they ask for pixels
    answer = torch.tensor([[0 if token in places else token for token in tokens]])
    tensors["input_ids"] = torch.cat([tensors["input_ids"], answer], 1)
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    tensors["mm_token_type_ids"] = pad(tensors["mm_token_type_ids"], (0, len(tokens)))
    tensors = {name: tensor.to(reader.device) for name, tensor in tensors.items()}
    with torch.inference_mode(), pinned(reader.settings.sdpa_kernel):
        output = reader.model(**tensors, use_cache=False, logits_to_keep=len(tokens) + 1)
    return output.logits[0, :-1].float().cpu(), inputs.image_tokens[0]


def distance(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, Any]:
    """Return the distances of logits (positions, vocabulary) from the reference's, under the names of the rows.

    Logits that are not finite give the status invalid and no number.
    """
    import torch

    broken = int((~logits.isfinite().all(-1)).sum())
    if broken:
        reason = f"NaN or infinity among the logits of {broken} of {len(logits)} positions"
        return {"positions": len(logits), "status": "invalid", "reason": reason}
    divergences, errors, deviations = [], [], []
    for mine, theirs in zip(logits.split(_BLOCK), reference.split(_BLOCK), strict=True):
        mine, theirs = mine.double(), theirs.double()
        p, q = theirs.log_softmax(-1), mine.log_softmax(-1)
        divergences.append((p.exp() * (p - q)).sum(-1))
        errors.append((mine - theirs).abs().amax(-1))
        deviations.append(theirs.std(-1).clamp_min(1e-12))
    kl, error = torch.cat(divergences).clamp_min(0), torch.cat(errors)  # rounding may leave -1e-17 for 0
    same = logits.argmax(-1) == reference.argmax(-1)
    parted = (~same).nonzero()
    return {
        "positions": len(logits), "kl_mean": float(kl.mean()), "kl_max": float(kl.max()),
        "logit_error": float(error.max()), "logit_error_sd": float((error / torch.cat(deviations)).max()),
        "same_argmax": float(same.float().mean()), "parted_at": int(parted[0]) if len(parted) else None,
    }  # fmt: skip
