"""A model checker for lio_handover.protocol.table: every interleaving of two hosts that run its
rows.

`world` says what a state is and what may happen next, `search` walks breadth first and checks,
`mutants` breaks the protocol on purpose, `python3 -m tests.model` prints counts and stories.
"""
