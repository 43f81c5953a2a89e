"""From what the user names to a stream of texts and labels."""
