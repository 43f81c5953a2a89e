"""Benchmarks: every stage beside what people use today, in one run. `make bench`; see README.md in this folder."""
