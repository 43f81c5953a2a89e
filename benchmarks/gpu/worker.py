"""A process that measures case after case: `python -m benchmarks.gpu.worker SETTINGS`; see `Place.read` for these."""

import gc
import sys
from typing import Any

import torch

from train.loop.step import OutOfMemoryError
from train.models.heads import quiet_transformers
from train.runtime.device import device_name, is_out_of_memory

from ..timing import Json, serve
from .attention import measure_attention
from .common import Place
from .ours import measure_memory, measure_ours, measure_profile
from .peers import measure_feed, measure_trainer

MEASURE = {
    "ours": measure_ours,
    "trainer": measure_trainer,
    "feed": measure_feed,
    "attention": measure_attention,
    "memory": measure_memory,
    "profile": measure_profile,
}


def measure(place: Place, what: str, case: Json) -> Json:
    """What a case gives; a lack of memory is a result, too."""
    try:
        with quiet_transformers():
            return MEASURE[what](place, **case)
    except (RuntimeError, MemoryError, OutOfMemoryError) as error:
        if not isinstance(error, OutOfMemoryError) and not is_out_of_memory(error):
            raise
        return {"out_of_memory": True}
    finally:
        if case.get("compile"):
            torch._dynamo.reset()
        if place.device.type != "cpu":
            gc.collect()
            torch.accelerator.empty_cache()


if __name__ == "__main__":
    _place = Place.read(sys.argv[1])

    def _handle(what: str, case: dict[str, Any]) -> Json:
        return measure(_place, what, case)

    serve(_handle, {"device_name": device_name(_place.device), "threads": torch.get_num_threads()})
