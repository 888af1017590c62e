"""Reading a page with a chosen model and settings: the only door to transformers."""

from ocrlab.machine import starting

# A worker that reads is a copy of a process that has these imported already, or seconds go by before its first page.
starting.preload("ocrlab.reading.open", "torch", "transformers.models.qwen2_vl.modeling_qwen2_vl")
