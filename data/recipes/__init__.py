"""How our page sets and the embedded reader were made. Nothing in `ocrlab` imports it."""
