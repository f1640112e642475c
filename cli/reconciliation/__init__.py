"""Reconciliation with brokers' statements: the shell around `models/reconciliation.py`.

files      a statement from a file, JSON or CSV
complete   waiting until ClickHouse has all that was published by now
ours       our side of a statement, and the breaks that stand, from ClickHouse
outbox     what a round tells: breaks, rows, dead letters
process    the reconciler: statements and decisions in, breaks out, exactly once
"""
