"""Runs side by side: the table, the curves."""
