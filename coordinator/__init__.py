"""The control plane: state and journal, placement, migration decisions, HTTP API."""
