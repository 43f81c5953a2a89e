"""Bytes on disk and their typed values: the manifest, checksummed JSON, shards, labels."""
