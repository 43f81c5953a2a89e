"""Caches at URLs, and the local store.

A cache lies there as it lies on a disk, its manifest written last. `pulling` brings one into the store, each byte of it
checked before it has its name; `pushing` sends one.
"""
