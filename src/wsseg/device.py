"""Where tensors live, and what the machine is called."""

from __future__ import annotations


def best_device() -> str:
    """Name the fastest device of this machine.

    Returns:
        ``"cuda"``, ``"mps"`` or ``"cpu"``.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def processor_name() -> str:
    """Name the processor as the system does, such as ``AMD EPYC 9654``."""
    import platform
    from pathlib import Path

    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_facts() -> dict[str, str]:
    """Describe the machine for the report: processor, cores, device and system."""
    import os
    import platform

    return {
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "device": best_device(),
        "system": f"{platform.system()} {platform.machine()}",
    }
