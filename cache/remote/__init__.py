"""Folders at URLs: buckets (s3://, gs://, az://), datasets of the Hub (hf://), folders (file://).

Nothing here contacts a network unless a URL was given.
"""
