"""Everything two machines must agree on: framing, messages, versions, and the pure state machines.

Nothing here does I/O or reads a clock, except :mod:`protocol.transport`, which pumps a session over a trio stream.
The normative text is ``protocol/SPEC.md``.
"""
