"""Tests that break things: kills, flipped bits, mutated files."""
