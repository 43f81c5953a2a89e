"""Tests of the commands, the README and the examples."""
