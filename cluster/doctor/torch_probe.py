"""`python -m tuneyard.cluster.doctor.torch_probe`: what torch can do here, as JSON.

A program of its own: a broken CUDA library ends the process that loads it, and a driver that hangs holds it for good.
"""

import json
import sys
from typing import Any

_SIZE = 512


def probe() -> dict[str, Any]:
    """What torch says about its build and its devices, and which devices compute rightly.

    `errors` has a text for each device that does not, by its number; "all" where CUDA does not begin at all.
    """
    import torch

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "available": False,
        "devices": [],
        "architectures": [],
        "errors": {},
    }
    if torch.version.cuda is None and torch.version.hip is None:
        return found
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        found["errors"]["all"] = _told(error)
        return found
    found["available"] = torch.cuda.is_available()
    found["architectures"] = torch.cuda.get_arch_list()
    for number in range(torch.cuda.device_count()):
        try:
            found["devices"].append(_device(number))
        except RuntimeError as error:
            found["errors"][str(number)] = _told(error)
    return found


def _device(number: int) -> dict[str, Any]:
    """Of a device that computes; raises RuntimeError for one that does not."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    ones = torch.ones(_SIZE, _SIZE, device=f"cuda:{number}")
    if (ones @ ones).unique().tolist() != [float(_SIZE)]:
        raise RuntimeError("a product of two matrices came out wrong")
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "bf16": torch.cuda.is_bf16_supported(),
    }


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()) + "\n")
