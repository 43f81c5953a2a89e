"""Loss scaling for fp16, in which small gradients would be 0 (Micikevicius et al. 2018).

Shapes: () a number.
"""

import torch

from ..run_folder.folder import Json

START, FACTOR, INTERVAL = 2.0**16, 2.0, 2000
"""Those of `torch.amp.GradScaler`: the scale to begin with; what it is divided by after an overflow, and multiplied by
after so many steps without one."""


class LossScale:
    """The factor of losses, which gradients are divided by again; it follows overflows as `torch.amp.GradScaler` does.

    Everything stays on the device, and the number of the step's gradients that overflowed is not read: their norm says
    whether one did.

    Attributes:
        value: () float32, the factor, a power of two.
        steps: () int32, steps without an overflow since it changed.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), START, device=device)
        self.steps = torch.zeros((), dtype=torch.int32, device=device)

    def set(self, value: float, steps: int) -> None:
        """Go on from what `to_json` gave."""
        self.value.fill_(value)
        self.steps.fill_(steps)

    def to_json(self) -> Json:
        """Its state, for a checkpoint. A CPU-GPU sync point."""
        return {"value": float(self.value), "steps": int(self.steps)}

    def adapt(self, norm: torch.Tensor) -> torch.Tensor:
        """Take notice of a step by its gradients' norm ().

        Returns:
            () bool, whether they overflowed, so that the step is to be skipped; not where the factor was 1 or less, and
            they would have been infinite or not a number without it.
        """
        overflow = ~torch.isfinite(norm)
        excused = overflow & (self.value > 1)
        torch._amp_update_scale_(self.value, self.steps, overflow.float(), FACTOR, 1 / FACTOR, INTERVAL)
        return excused
