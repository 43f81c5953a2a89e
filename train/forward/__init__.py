"""What a model computes for a batch: inputs and losses, and the ways to compute less."""
