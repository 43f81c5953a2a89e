"""A Python of its own, for what a process that has imported everything cannot show."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import ROOT


def run_python(code: str, *arguments: object, folder: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a folder, with `options` of `subprocess.run`; what it printed, as text, is kept."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    common = {"env": environment, "capture_output": True, "text": True, "timeout": 120}
    return subprocess.run(command, cwd=folder, **{**common, **options})
