"""Tokenizers: found by name, run over batches of texts, checked against `tokenizers`."""

ENGINES = ("auto", "nanotoken", "gigatoken", "tokenizers")
"""Values of `--engine`; declared here because the command line reads them without loading numpy."""
