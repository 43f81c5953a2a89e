"""Files of texts to predict, and of their predictions."""
