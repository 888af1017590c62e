"""What several notebooks measure and draw, or what judges a run; what one alone asks stands in that notebook."""
