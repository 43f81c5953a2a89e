"""Comparison of training runs: a table, and a page of curves."""
