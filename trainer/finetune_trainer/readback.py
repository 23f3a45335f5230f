"""Numbers that the device has worked out, read without stopping it.

A host that asks for a number waits until everything queued before it is done, and the device then waits for the host's
next order. So the numbers of a step are copied behind it and read when the next step has been queued.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Readback:
    """Scalars on their way to the host."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        """Queue the copy of `values`, each a scalar on a device of its own; float64 on the host."""
        accelerated = next((each.device for each in values if each.device.type != "cpu"), None)
        self._event: torch.Event | None = None
        if accelerated is None:
            self._host = torch.stack([each.detach().double() for each in values])
            return
        device_values = torch.stack(
            [each.detach().to(accelerated, torch.float64, non_blocking=True) for each in values]
        )
        self._host = torch.empty(len(values), dtype=torch.float64, pin_memory=True)
        self._host.copy_(device_values, non_blocking=True)
        self._event = torch.Event(accelerated)
        self._event.record()

    @property
    def is_ready(self) -> bool:
        """Whether `values` would not wait."""
        return self._event is None or self._event.query()

    def values(self) -> list[float]:
        """The numbers; waits for the device if it has not come this far."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()
