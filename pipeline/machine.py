"""Where a run was trained, and in which precision: kept with its result."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

import torch


def where(device: torch.device, precision: str) -> dict[str, Any]:
    """Return host, process, processor or GPU, the GPUs this process may see, threads, precision and torch's version."""
    on_gpu = device.type == "cuda"
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "torch": torch.__version__,
    }
