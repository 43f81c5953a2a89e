"""Which rows make each batch of an epoch, and what that costs."""
