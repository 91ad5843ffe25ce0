"""What a regulariser of a tag localizer may do.

A regulariser is bound to its settings and adds an input transform, a module or a loss term to a
`wsseg.nets.cam_head.ClassMapNet`. Several combine: transforms act one after the other in the
order of the recipe, loss terms add up, and at most one may run the forward pass itself.

Random numbers come from torch's global generators, which the training loop seeds anew for every
forward pass, so that an interrupted training continues as if it had not been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from wsseg.config import MethodConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsseg.cues.protocol import CueInputs
    from wsseg.localize.aligned import AlignedMap
    from wsseg.localize.config import TagLocalizerConfig
    from wsseg.nets.cam_head import ClassMapNet, Step


class Regulariser:
    """The base of all regularisers; it changes nothing, and each method overrides what it needs.

    Args:
        config: Settings, of the class ``config_class``.

    Attributes:
        config_class: Class of the settings; its ``name`` is the name in recipes.
        runs_forward: Whether `step` and `refined` take the place of the network's own pass.
    """

    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    runs_forward: ClassVar[bool] = False

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """Name in recipes; of the module on the network; the beginning of its terms' names."""
        return str(self.config.name)

    def check(self, net: ClassMapNet, config: TagLocalizerConfig) -> None:
        """Refuse what contradicts this method, before anything is trained.

        Args:
            net: The network without regularisers.
            config: All settings of the localizer, those of the other regularisers included.

        Raises:
            RecipeError: Saying what contradicts and what to change.
        """

    def build(self, net: ClassMapNet) -> nn.Module | None:  # noqa: ARG002 - for subclasses
        """Make the method's module, or change the network, once.

        Args:
            net: The network. Hooks on its modules must survive a deep copy of it.

        Returns:
            A module that is trained as part of the head and stored in checkpoints; None: none.
        """
        return None

    def aligned_maps(self, inputs: CueInputs) -> dict[str, AlignedMap]:  # noqa: ARG002
        """Name the maps that this method needs beside every training image.

        Args:
            inputs: The data set and what belongs to the run.

        Returns:
            The maps by the names under which they come into the batch.
        """
        return {}

    def transform(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Change a training batch before the forward pass.

        Args:
            batch: ``image`` (N, 3 or 1, H, W) normalised, 0 where padded; ``tags`` (N, C) in
                [0, 1]; and where there is padding ``valid`` (N, 1, H, W).

        Returns:
            A new batch with the same names; ``tags`` may be soft, and ``tag_weights`` (N, C) may
            come in. The given one stays as it was.
        """
        return batch

    def step(self, net: ClassMapNet, batch: dict[str, Tensor]) -> Step:
        """Run the forward pass; only where `runs_forward`.

        Args:
            net: The network, in training or evaluation mode.
            batch: As in `transform`; without tags when maps are extracted.

        Returns:
            The pass, with the raw class maps.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run the forward pass.")

    def refined(self, net: ClassMapNet, step: Step) -> Tensor:
        """Refine the maps of a pass of this object's own; only where `runs_forward`.

        Args:
            net: The network in evaluation mode.
            step: What `step` returned.

        Returns:
            (N, C, h, w), in place of the raw class maps.
        """
        raise NotImplementedError(f"{type(self).__name__} does not refine maps.")

    def terms(self, net: ClassMapNet, step: Step) -> dict[str, Tensor]:  # noqa: ARG002
        """Compute loss terms from a training pass.

        Args:
            net: The network in training mode.
            step: The pass.

        Returns:
            Weighted scalars by name, such as ``{"seam_er": ...}``; they are added to the loss.
        """
        return {}

    def on_epoch_start(self, epoch: int) -> None:
        """Learn that an epoch begins; overriding it forgoes checkpoints within an epoch.

        Args:
            epoch: From 0.
        """
