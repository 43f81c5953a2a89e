"""What makes a host wait for its device, found on any device."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "_unique2", "equal", "is_nonzero", "item", "masked_select", "nonzero"}


class Syncs(TorchDispatchMode):
    """Keeps the names of the operations within it that read a value back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found |= WAITING & {function.overloadpacket.__name__}
        return function(*args, **(kwargs or {}))
