"""Writing a cache, and publishing it complete or not at all."""
