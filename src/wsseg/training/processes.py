"""One training process or several: the device, the precision, and what they tell each other.

Under ``torchrun`` or ``accelerate launch`` every process runs the same program; gradients are
averaged over them after each update (DistributedDataParallel). A batch is shared equally, so a
network without batch statistics trains to the same weights with any number of processes, up to
the rounding of sums. BatchNorm is different: each process normalises with the statistics of its
own share of the batch, and the running statistics are those of the first process. Keep at least
about 8 items per process then, or freeze those layers. Losses that average over a varying number
of valid pixels weigh every process's share the same, however many valid pixels it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.processes import is_main_process
from wsseg.training.precision import accelerate_name, resolve_precision

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "LossModule",
    "from_main_process",
    "is_main_process",
    "mean_over_processes",
    "start_accelerator",
]

_SUPPORTED_KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU")


def start_accelerator(precision: str) -> Accelerator:
    """Set up the device, the precision, and the connection to the other processes.

    Args:
        precision: As in the configuration; ``auto`` is resolved for the device.

    Returns:
        What runs the forward and backward passes.

    Raises:
        RecipeError: When the precision does not fit the device, or the processes were launched in
            a way other than plain data parallelism.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import parse_flag_from_env

    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    resolved = resolve_precision(precision, device)
    # accelerate fixes the precision once per program; the trainings of one run may differ.
    AcceleratorState._reset_state()
    # Backbones may hold blocks that a method does not use, and losses may skip a branch.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    accelerator = Accelerator(
        mixed_precision=accelerate_name(resolved),
        kwargs_handlers=handlers,
        step_scheduler_with_optimizer=False,
    )
    kind = accelerator.distributed_type.value
    if kind not in _SUPPORTED_KINDS:
        raise RecipeError(
            f"The processes were launched with {kind}; supported are one process, and data "
            "parallelism (torchrun, or accelerate launch --multi_gpu or --multi_cpu)."
        )
    return accelerator


class LossModule(nn.Module):
    """Makes a network's ``loss`` its forward pass, where precision and averaging take hold.

    Args:
        module: The network, with ``loss(batch) -> dict`` holding the total as ``loss``.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss terms; only the total carries gradients.

        Raises:
            ValueError: When there is no total, or a term is not one number.
        """
        terms: dict[str, Tensor] = self.module.loss(batch)  # type: ignore[operator]
        shapes = {name: tuple(term.shape) for name, term in terms.items()}
        if "loss" not in terms or any(term.numel() != 1 for term in terms.values()):
            raise ValueError(
                'Expected loss(batch) to return single numbers with their total as "loss", but got '
                f"shapes {shapes}."
            )
        return {
            name: (term if name == "loss" else term.detach()).reshape(())
            for name, term in terms.items()
        }


def mean_over_processes(accelerator: Accelerator, values: dict[str, Tensor]) -> dict[str, float]:
    """Average single numbers over the processes, each of which gives the same names.

    Args:
        accelerator: The connection.
        values: Tensors of shape ().

    Returns:
        The means; the same in every process.
    """
    stacked = torch.stack([value.float() for value in values.values()])
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, reduction="mean")
    return dict(zip(values, stacked.tolist(), strict=True))


def from_main_process(accelerator: Accelerator, values: dict[str, float]) -> dict[str, float]:
    """Replace numbers by those of the first process, so that all decide alike.

    Args:
        accelerator: The connection.
        values: Numbers under the same names in every process.

    Returns:
        The first process's numbers.
    """
    if accelerator.num_processes == 1 or not values:
        return values
    from accelerate.utils import broadcast

    sent = torch.tensor(list(values.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(values, broadcast(sent, from_process=0).tolist(), strict=True))
