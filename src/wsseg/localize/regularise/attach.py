"""Make a tag localizer's network together with the regularisers that its settings ask for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from wsseg import registry
from wsseg.errors import RecipeError
from wsseg.localize.config import TagLocalizerConfig
from wsseg.localize.regularise.protocol import Regulariser

if TYPE_CHECKING:
    from wsseg.nets.cam_head import ClassMapNet


def make_localizer(config: TagLocalizerConfig, num_classes: int) -> ClassMapNet:
    """Make the network of a tag localizer.

    Args:
        config: The localizer's settings.
        num_classes: C, foreground classes.

    Returns:
        The network in training mode, its regularisers attached.

    Raises:
        RecipeError: When the network cannot be made as asked, or settings contradict each other.
        MissingWeightsError: When its weights cannot be had or do not fit.

    Example:
        >>> from wsseg.localize.tags.cam import Cam
        >>> net = make_localizer(Cam(backbone="test_resnet", regularisers=["cutout"]), 2)
        >>> [regulariser.name for regulariser in net.regularisers]
        ['cutout']
    """
    method = registry.load("localizers", config.name)
    net: ClassMapNet = method(config=config, num_classes=num_classes)
    attach(net, config)
    return net


def attach(net: ClassMapNet, config: TagLocalizerConfig) -> None:
    """Let the regularisers of the settings take part in the training of a network.

    Args:
        net: The network; changed. Without regularisers it stays as it is.
        config: The localizer's settings.

    Raises:
        RecipeError: When regularisers contradict each other or the localizer.
    """
    names = [str(settings.model_dump()["name"]) for settings in config.regularisers]
    made: list[Regulariser] = [
        registry.load("regularisers", name)(settings)
        for name, settings in zip(names, config.regularisers, strict=True)
    ]
    if not made:
        return
    _check_together(net, config, made)
    for regulariser in made:
        regulariser.check(net, config)
    net.add_regularisers(made)
    if any(type(one).on_epoch_start is not Regulariser.on_epoch_start for one in made):
        # Only on demand: the training loop makes no checkpoints within an epoch where it is.
        net.on_epoch_start = net.start_epoch  # type: ignore[assignment]
    head = {id(parameter) for parameter in net.head_parameters()}
    if not all(id(parameter) in head for parameter in net.extras.parameters()):
        raise ValueError(
            f"Expected head_parameters() of {type(net).__name__} to hold those of `extras`, too."
        )


def _check_together(net: ClassMapNet, config: TagLocalizerConfig, made: list[Regulariser]) -> None:
    names = [one.name for one in made]
    # A loss that knows nothing of regularisers would leave them out without a word.
    has_own_loss = "loss" in vars(type(net)) and "runs_regularisers" not in vars(type(net))
    if has_own_loss or not getattr(net, "runs_regularisers", False):
        raise RecipeError(
            f'Localizer "{config.name}" computes a loss of its own and takes no regularisers, but '
            f"localize.regularisers is {', '.join(names)}. Set localize.regularisers=[]."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RecipeError(
            f"localize.regularisers names {', '.join(twice)} more than once; each may stand there "
            "once. Remove one of them."
        )
    runners = [one.name for one in made if one.runs_forward]
    if len(runners) > 1:
        raise RecipeError(
            f"localize.regularisers has {' and '.join(runners)}, of which each runs the network "
            "in its own way; one at most is possible. Remove the others."
        )
