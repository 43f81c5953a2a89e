"""Preparation: text to cache. The command `prep` is its front; it never imports torch."""
