"""From a file, of this machine or at a URL, to record batches: formats, parsing, why a file cannot be read."""
