"""The training forward: the model's own weights over equal-sized images at once, and the glyph head.

The stock code loops over images. This one gives the same numbers (a test compares them) for a batch of one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from data.recipes.architecture import CELL, MERGE_SIZE, PATCH_SIZE
from data.recipes.batches import SLOTS

if TYPE_CHECKING:
    from transformers import Qwen2VLForConditionalGeneration

_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def patches(pixels: Tensor) -> Tensor:
    """Return (B, patches, features) as the image processor cuts them, from (B, H, W, 3) uint8."""
    mean, std = _MEAN.to(pixels.device), _STD.to(pixels.device)
    x = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    batch, channels, height, width = x.shape
    m, p = MERGE_SIZE, PATCH_SIZE
    x = x.view(batch, channels, height // CELL, m, p, width // CELL, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(*x.shape[:6], 2, p, p).reshape(batch, height * width // p**2, channels * 2 * p * p)


def patch_positions(height: int, width: int) -> Tensor:
    """Return (patches, 2) row and column of each patch, in the merger's order, for a canvas in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height // PATCH_SIZE), torch.arange(width // PATCH_SIZE), indexing="ij")
    shape = (height // CELL, MERGE_SIZE, width // CELL, MERGE_SIZE)
    return torch.stack([t.reshape(shape).transpose(1, 2).flatten() for t in (rows, columns)], -1)


def image_features(visual: Any, pixels: Tensor) -> Tensor:
    """Return (B, cells, hidden) of the vision tower for (B, H, W, 3) uint8."""
    batch, height, width, _ = pixels.shape
    weight = visual.patch_embed.proj.weight
    x = F.linear(patches(pixels), weight.flatten(1))
    cos, sin = (t.to(x.dtype) for t in visual.rotary_pos_emb(x, patch_positions(height, width)))
    for layer in visual.blocks:
        x = x + _attention(layer.attn, layer.norm1(x), cos, sin)
        x = x + layer.mlp(layer.norm2(x))
    return visual.merger(x).view(batch, height * width // CELL**2, -1)


def _attention(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, length, width = x.shape
    q, k, v = attention.qkv(x).view(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = (t * cos + _rotated(t) * sin for t in (q, k))
    mixed = mix(q, k, v, causal=False)
    return attention.proj(mixed.transpose(1, 2).reshape(batch, length, width))


def mix(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> Tensor:
    """Return attention over (B, heads, L, width); plain products up to 512 tokens.

    On CPU in bfloat16, forward and backward of SDPA's flash kernel took 2 to 9 times as long up to 160 tokens (LOG.md).
    """
    length = q.shape[-2]
    if length > 512:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores + torch.full((length, length), float("-inf"), dtype=scores.dtype).triu(1)
    return scores.softmax(-1, dtype=scores.dtype) @ v


def text_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, **unused: Any
) -> tuple[Tensor, None]:
    """The same for the text layers, in the form that transformers' attention registry wants: causal, no padding."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    return mix(query, key, value, causal=True).transpose(1, 2).contiguous(), None


def _rotated(x: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat([-right, left], -1)


def token_positions(before: int, rows: int, columns: int, after: int) -> Tensor:
    """Return (3, tokens) multimodal rotary positions: `before` text tokens, an image, `after` text tokens."""
    height, width = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    image = torch.stack([torch.zeros(rows * columns, dtype=torch.long), height.flatten(), width.flatten()]) + before
    start = before + max(rows, columns)
    return torch.cat([torch.arange(before).expand(3, -1), image, torch.arange(start, start + after).expand(3, -1)], 1)


class Trainee(nn.Module):
    """The model with a glyph head, which says what character's centre lies in each slot of a cell.

    The head is dropped when the model is saved. It gives the vision tower a dense lesson from the first step.
    """

    def __init__(self, model: Qwen2VLForConditionalGeneration, width: int = 96) -> None:
        super().__init__()
        self.model = model
        AttentionInterface.register("ocrlab_training", text_attention)
        model.model.language_model.config._attn_implementation = "ocrlab_training"
        text: Any = model.config.text_config
        hidden, self.classes = text.hidden_size, text.vocab_size
        self.slot_weight = nn.Parameter(torch.randn(hidden, SLOTS * width) * hidden**-0.5)
        self.glyph = nn.Linear(width, self.classes)

    def glyph_loss(self, features: Tensor, index: Tensor, labels: Tensor, empty: int) -> tuple[Tensor, Tensor]:
        """Return cross-entropy over labelled slots and as many empty ones, and the accuracy over labelled slots.

        `index` is (glyphs,) into (image, cell, slot) flattened; `empty` is the class of a slot without a centre.
        """
        slots = (features @ self.slot_weight.to(features.dtype)).reshape(-1, self.glyph.in_features)
        free = torch.ones(len(slots), dtype=torch.bool)
        free[index] = False
        candidates = torch.randint(len(slots), (len(index),))
        candidates = candidates[free[candidates]]
        logits = self.glyph(F.gelu(slots[torch.cat([index, candidates])])).float()
        target = torch.cat([labels, torch.full((len(candidates),), empty)])
        right = logits[: len(index)].argmax(-1) == labels
        return F.cross_entropy(logits, target), right.float().mean()

    def answer_loss(
        self, features: Tensor, grid: tuple[int, int], before: Tensor, after: Tensor, answers: Tensor
    ) -> Tensor:
        """Return cross-entropy per answer token; `answers` is (B, T), padded with -100."""
        embed = self.model.get_input_embeddings()
        batch, length = answers.shape
        parts = [
            embed(before).expand(batch, -1, -1),
            features,
            embed(after).expand(batch, -1, -1),
            embed(answers[:, :-1].clamp_min(0)),
        ]
        positions = token_positions(len(before), *grid, len(after) + length - 1)
        hidden = self.model.model.language_model(
            inputs_embeds=torch.cat([part.to(features.dtype) for part in parts], 1),
            position_ids=positions[:, None].expand(-1, batch, -1),
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state[:, -length:]
        keep = answers != -100
        return F.cross_entropy(self.model.lm_head(hidden[keep]).float(), answers[keep])
