"""The one place where the cluster's decisions are kept: SQLite, journaled, in one worker thread.

``db`` runs transactions; the other modules are plain functions of a :class:`~coordinator.store.db.Tx`, one noun each,
so that a decision that touches several nouns is still one transaction. Everything that must be made once (names,
addresses, node ids, generations, the end of a migration) is decided inside such a transaction.
"""
