"""Values of the options of a build. Loads nothing, so that the command line can name them in its help."""

from cache.format.tasks import KINDS

TASKS = ("auto", *KINDS)
"""What labels may be."""
ENGINES = ("auto", "nanotoken", "gigatoken", "tokenizers")
"""What may tokenize."""
DROP = "drop"
MISSING = ("error", DROP)
"""What may become of rows without a text or a label."""
TRUNCATE, CHUNK = "truncate", "chunk"
LONG_TEXTS = (TRUNCATE, CHUNK)
"""What may become of texts beyond the max length."""
LOCAL = "local"
EXECUTORS = (LOCAL, "ray")
"""Where a build may run."""
