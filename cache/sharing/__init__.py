"""Caches at URLs: buckets (s3://, gs://, az://), datasets of the Hub (hf://), folders (file://).

A cache lies there as it lies on a disk, its manifest written last. `pulling` brings one into a local store, every byte
of it checked before it has its name; `pushing` sends one. Nothing here contacts a network unless a URL was given.
"""
