"""ocrlab."""
