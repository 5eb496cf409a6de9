"""Where a run was trained, and in which precision: kept with its result."""

from __future__ import annotations

import os
import platform
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def where(device: torch.device | None, precision: str) -> dict[str, Any]:
    """Return host, process, processor or GPU, the GPUs this process may see, and precision; of torch what it says.

    Args:
        device: ``None`` for a trainer of one's own, which says nothing of it.
        precision: In words.
    """
    found = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": platform.machine(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "precision": precision,
    }
    # A trainer of one's own may do without torch, which takes seconds to import.
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        if device is not None and device.type == "cuda":
            found["device"] = torch.cuda.get_device_name(device)
    return found
