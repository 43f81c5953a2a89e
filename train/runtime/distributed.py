"""The ranks of a run: processes that each compute a share of every batch, and what they tell each other.

Gradients are summed by torch's DistributedDataParallel, see `train.loop.parallel`; here is the little beside them: a
few sums, agreements, and failures, which concern all ranks. A process alone is the one rank of its run, and pays
nothing.

Messages of the host go by gloo, which leaves an accelerator alone; tensors of the device by its own backend.
"""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from cache.errors import InputError, LengthwiseError

ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
"""How often torchrun has started the ranks anew."""

TIMEOUT = timedelta(minutes=10)
"""How long ranks wait for one another: longer than the first one takes to write a checkpoint."""

Value = TypeVar("Value")


class LostRankError(LengthwiseError):
    """Another rank of the run ended, or does not answer."""


class FailedTogether(SystemExit):
    """Ends a rank without a message, for the first one says why all of them end."""


@dataclass(frozen=True)
class Ranks:
    """This process as one of the ranks of its run.

    Attributes:
        rank: its number, 0..world_size-1.
        world_size: number of ranks.
        local_rank: the number of its device among those that it sees; without `--gpus-per-task` of SLURM its own number
            among the ranks of this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def several(self) -> bool:
        """Whether there are other ranks."""
        return self.world_size > 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over all ranks; on an accelerator without making the host wait."""
        if self.several:
            dist.all_reduce(tensor)
        return tensor

    def totals(self, *counts: int) -> list[int]:
        """The sum of each count over all ranks."""
        if not self.several:
            return list(counts)
        found: list[int] = self.sum_(torch.tensor(counts, dtype=torch.int64)).tolist()
        return found

    def gather(self, value: Value) -> list[Value]:
        """The value of each rank."""
        if not self.several:
            return [value]
        found: list[Any] = [None] * self.world_size
        dist.all_gather_object(found, value)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Wait at its end for all ranks. If a `LengthwiseError` leaves it on any of them, one does on all: the first
        rank raises it with the text of each, the others end without a word.

        Within it no rank may wait for another one.
        """
        failure: tuple[type[LengthwiseError], str] | None = None
        try:
            yield
        except LengthwiseError as error:
            if not self.several:
                raise
            failure = type(error), str(error)
        failures = {rank: found for rank, found in enumerate(self.gather(failure)) if found is not None}
        if not failures:
            return
        kind = next(iter(failures.values()))[0]
        if not self.first:
            raise FailedTogether(kind.exit_code)
        texts: dict[str, list[int]] = {}
        for rank, (_, text) in failures.items():
            texts.setdefault(text, []).append(rank)
        if len(texts) == 1 and 0 in failures:
            raise kind(next(iter(texts)))
        raise kind("\n".join(f"rank {', '.join(map(str, ranks))}: {text}" for text, ranks in texts.items()))


ALONE = Ranks()
"""The one rank of a run of one process."""


class StopVote:
    """Whether any rank wants to stop, answered alike on all ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.cast: tuple[torch.Tensor, Any] | None = None

    def __call__(self, wish: bool) -> bool:
        """Vote after a step; returns the result of the step before, which is there by now. A process alone gets its own
        wish."""
        if not self.ranks.several:
            return wish
        before = self._result()
        vote = torch.tensor(int(wish))
        self.cast = vote, dist.all_reduce(vote, async_op=True)
        return before

    def now(self, wish: bool) -> bool:
        """Vote and wait for the result."""
        return self(wish) | self._result()

    def _result(self) -> bool:
        if self.cast is None:
            return False
        (vote, work), self.cast = self.cast, None
        work.wait()
        return bool(vote)


_GROUPS: list[Any] = []
"""The process group, kept to the end of the process. With DistributedDataParallel as its last owner torch would hold
the interpreter's lock while it waits for the group's threads, which may wait for that lock."""


@contextlib.contextmanager
def process_group(ranks: Ranks) -> Iterator[None]:
    """Connect the ranks of a run, if there are several, by the environment variables of their launcher.

    Raises:
        InputError: they do not find each other.
        LostRankError: one of them ended. Ranks other than the first end without a message.
    """
    if not ranks.several:
        yield
        return
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    backends = "gloo"
    if accelerator is not None:
        backends = f"cpu:gloo,{accelerator.type}:{dist.Backend.default_device_backend_map[accelerator.type]}"
    try:
        with _ending_at_once():
            store, rank, size = next(rendezvous("env://", ranks.rank, ranks.world_size, timeout=TIMEOUT))
            # torchrun keeps its store over a restart, with the addresses of the ranks that ended.
            store = PrefixStore(f"attempt-{os.environ.get(ATTEMPT, '0')}", store)
            dist.init_process_group(backends, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise InputError(
            f"rank {ranks.rank} of {ranks.world_size} does not find the others at {where} (MASTER_ADDR and "
            f"MASTER_PORT): {_first_sentence(error)}; start all of them anew, within {TIMEOUT.seconds // 60} minutes, "
            "on several machines with GLOO_SOCKET_IFNAME set to the network interface that connects them"
        ) from None
    _GROUPS.append(dist.group.WORLD)
    try:
        yield
    except SystemExit:
        dist.destroy_process_group()
        raise
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, to a process that is about to end
        if not ranks.first:
            raise FailedTogether(LostRankError.exit_code) from None
        raise LostRankError(
            f"another rank of this run ended or does not answer ({_first_sentence(error)}); what it said stands beside "
            "this message, or a signal ended it; go on from the newest checkpoint with: train run --resume RUN"
        ) from None
    dist.destroy_process_group()


@contextlib.contextmanager
def _ending_at_once() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the process as the system does: while torch waits, no handler of Python's runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _is_lost(error: RuntimeError) -> bool:
    """Whether a collective operation failed because a rank is gone; gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _first_sentence(error: Exception) -> str:
    """What an error of torch says, without the line of its source and the trace."""
    return re.sub(r"^\[\S+:\d+\] ", "", str(error).strip().partition("\n")[0]).partition(". ")[0]
