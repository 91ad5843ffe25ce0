"""Which number format a training computes in, by what the device computes natively.

bfloat16 autocast makes a training step on a CPU about twice as fast where the processor has
bfloat16 instructions, and slower where it has not; so the processor is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from wsseg import console
from wsseg.errors import RecipeError

_ACCELERATE_NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def cpu_has_bfloat16() -> bool:
    """Tell whether this processor multiplies bfloat16 numbers in hardware.

    True for x86 with AVX512-BF16 or AMX, and for ARM with the bf16 extension, as far as torch can
    tell.
    """
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        return True
    # torch before 2.9 has no table of capabilities, only these two questions.
    for question in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        ask = getattr(torch.cpu, question, None)
        if ask is not None and ask():
            return True
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """Choose the number format of the forward pass, and say so once.

    Args:
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        device: Where the training runs.

    Returns:
        ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        RecipeError: When float16 is asked for on a CPU.
    """
    if precision == "auto":
        chosen, reason = choose_precision(device)
        console.once(f"precision: {chosen} ({reason})")
        return chosen
    if precision == "float16" and device.type == "cpu":
        raise RecipeError(
            "precision is float16, but the training runs on a CPU, which cannot train in it. "
            "Allowed there: auto, float32, bfloat16."
        )
    if precision == "bfloat16" and device.type == "cpu" and not cpu_has_bfloat16():
        console.warning(
            "precision is bfloat16, but this processor has no bfloat16 instructions: training "
            "will be slow. Set precision=auto."
        )
    return precision


def accelerate_name(precision: str) -> str:
    """Translate a resolved precision to the word that accelerate uses."""
    return _ACCELERATE_NAMES[precision]


def choose_precision(device: torch.device) -> tuple[str, str]:
    """Choose the number format in which a device trains fastest without loss.

    Args:
        device: Where the training runs.

    Returns:
        ``float32``, ``bfloat16`` or ``float16``, and the reason in words.
    """
    if device.type == "cpu":
        if cpu_has_bfloat16():
            return "bfloat16", "the processor has bfloat16 instructions"
        return "float32", "the processor has no bfloat16 instructions"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16", "the GPU computes it natively"
        return "float16", "the GPU has no native bfloat16"
    return "float32", f"device {device.type}"
