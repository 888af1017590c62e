"""The machine in front of you: what it is and what runs on it."""
