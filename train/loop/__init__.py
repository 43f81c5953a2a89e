"""The training loop: what is trained, one optimizer step, checkpoints, and what happens between steps."""
