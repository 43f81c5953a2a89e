"""Opening a cache: its splits, their rows and plans."""
