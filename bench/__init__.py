"""Benchmarks: Wherry beside named peers, in the same run. ``make bench-NAME`` runs ``python -m bench.NAME``."""
