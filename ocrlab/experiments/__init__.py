"""One module per notebook: measuring and drawing together."""
