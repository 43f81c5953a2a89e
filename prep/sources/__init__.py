"""From what the user names to a corpus that can be read."""
