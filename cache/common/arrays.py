"""The type of arrays whose dtype and shape their names and docstrings give."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
