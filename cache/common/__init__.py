"""What both commands need and no cache does: files and locks, the Hub's models, drawing."""
