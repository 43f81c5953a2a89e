"""Training: cache to a fine-tuned model. The command `train` is its front; it never imports `prep` or `datasets`."""
