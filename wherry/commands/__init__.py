"""The commands, one module per noun. ``cli.py`` puts them together."""
