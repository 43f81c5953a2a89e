"""What a build imports when it needs it, imported once in the process that those of tests are forked from."""

import importlib

for _name in ("nanotoken", "pandas", "pyarrow.compute", "pyarrow.csv", "pyarrow.json", "pyarrow.parquet"):
    importlib.import_module(_name)
