"""The two ends of a migration: protocol.migration's machines driven with real I/O."""
