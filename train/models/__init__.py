"""Models: loaded, fitted to a cache, computed faster."""
