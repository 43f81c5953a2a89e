"""From a stream of texts to encoded rows in ascending length."""
