"""Padded batches as tensors. Only this package of `cache` imports torch."""
