"""Readings against truths: metrics, what a difference is worth, and what became of a page."""
