"""What a run leaves in its folder: records, model card, trackers, the console."""
