"""What a run shows: figures, tables and the site."""
