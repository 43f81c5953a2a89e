"""What both commands show and read on a terminal: options, output, progress, sizes, the text of messages."""
