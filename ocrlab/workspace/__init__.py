"""What a person runs: the command line, the notebook runner, the app."""
