"""A stand-in for Ray in this process: tasks run in any order, from pickled arguments, some of them twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cloudpickle


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


@dataclass(eq=False)
class Reference:
    """A task that was handed out."""

    number: int
    function: Any
    call: bytes
    item: bytes


class Scattered:
    """What `prep.rows.on_ray` uses of Ray.

    Args:
        seed: of the order.
        cores: of the cluster.
        lost: tasks, counted from 0 over all of a build, that Ray gives up.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, seed: int = 0, cores: int = 4, lost: Sequence[int] = ()) -> None:
        self.random, self.cores, self.lost = random.Random(seed), cores, lost
        self.started = 0
        self.cancelled: list[Any] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cores}

    def put(self, value: Any) -> bytes:
        return bytes(cloudpickle.dumps(value))

    def remote(self, function: Any) -> Any:
        def start(call: bytes, item: Any) -> Reference:
            self.started += 1
            return Reference(self.started - 1, function, call, cloudpickle.dumps(item))

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start))

    def wait(self, references: list["Reference"]) -> tuple[list["Reference"], list["Reference"]]:
        chosen = self.random.choice(references)
        return [chosen], [other for other in references if other is not chosen]

    def get(self, reference: "Reference") -> Any:
        if reference.number in self.lost:
            raise RayError("the process died\nmore")
        for _ in range(self.random.choice([1, 2])):  # as one whose process was killed at its end
            call, item = cloudpickle.loads(reference.call), cloudpickle.loads(reference.item)
            result = cloudpickle.dumps(reference.function(call, item))
        return cloudpickle.loads(result)

    def cancel(self, reference: "Reference", force: bool) -> None:
        self.cancelled.append(reference)
