"""Reading a page with a chosen model and settings: the only door to transformers."""
