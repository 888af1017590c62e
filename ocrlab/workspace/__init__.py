"""The app, the upgrade and the soak, on their way to other rooms."""
