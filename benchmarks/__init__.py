"""Benchmarks: every stage beside what people use today, in one run. `make bench`; see docs/benchmarks.md."""
