"""Label values to class ids; the tags of words."""
