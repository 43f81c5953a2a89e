"""Models: their folders read and checked, fitted to a cache."""
