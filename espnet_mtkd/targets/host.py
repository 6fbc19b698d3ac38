"""Results on their way from a device to main memory."""

from collections.abc import Mapping

import numpy as np
import torch


class HostCopy:
    """Copies tensors to main memory; the device and its caller go on meanwhile.

    Args:
        tensors: name -> tensor, all on one device.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._event = None
        device = next((x.device for x in tensors.values() if x.is_cuda), None)
        if device is not None:
            self._tensors = {
                name: torch.empty_like(x, device="cpu", pin_memory=True).copy_(
                    x, non_blocking=True
                )
                for name, x in tensors.items()
            }
            self._event = torch.cuda.Event()
            # (Of their device, which need not be the current one.)
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._tensors = {name: x.cpu() for name, x in tensors.items()}

    def wait(self) -> dict[str, np.ndarray]:
        """The arrays, once they have arrived; any thread may wait."""
        if self._event is not None:
            self._event.synchronize()
        return {name: x.numpy() for name, x in self._tensors.items()}
