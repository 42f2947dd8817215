"""What to train, on what, and how: presets, a TOML file, and changes from the command line."""
