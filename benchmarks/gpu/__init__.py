"""Correctness, feed, training, memory and profile on a machine with a GPU."""
