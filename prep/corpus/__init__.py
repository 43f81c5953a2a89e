"""What a corpus is: its splits, columns, rows that lack a text or a label; the presets."""
