"""Partition state: rows in memory, changelog, restore, local snapshot."""
