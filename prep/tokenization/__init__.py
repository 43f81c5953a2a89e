"""Tokenizers: found by name, run over batches of texts, checked against `tokenizers`."""
