"""What people type and import. Speaks the HTTP API only."""
