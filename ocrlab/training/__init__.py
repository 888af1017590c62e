"""Training of the embedded reader: strings, rendered print, the trainer. Imported by no other room."""
