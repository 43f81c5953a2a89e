"""Attention and dropout of a training step, over padded batches on the CPU and over rows laid end to end."""
