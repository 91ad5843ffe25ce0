"""The terms that can be added to a loss, together: which are on, and what they look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from wsseg.errors import RecipeError
from wsseg.nets.feature_map import FeatureMap
from wsseg.segment.loss_config import TERMS, AddedTermsConfig
from wsseg.segment.losses.constrain import constrain
from wsseg.segment.losses.dense_crf import dense_crf_loss
from wsseg.segment.losses.gated_crf import gated_crf
from wsseg.segment.losses.normalised_cut import normalised_cut
from wsseg.segment.losses.tree_energy import FeatureEmbedding, features_on_grid, tree_energy
from wsseg.segment.term_config import TreeEnergyConfig


class AddedTerms(nn.Module):
    """The terms of one loss.

    Args:
        config: Which terms there are.
        net: The network. A term that looks at its features needs ``with_features(images)``, which
            returns logits and a `FeatureMap`, and ``feature_channels``.

    Raises:
        RecipeError: When a term needs features that the network does not give.
    """

    def __init__(self, config: AddedTermsConfig, net: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.embedding: FeatureEmbedding | None = None
        tree = config.tree_energy
        if tree is not None and tree.weight > 0 and tree.high_level:
            if not hasattr(net, "with_features"):
                raise RecipeError(
                    "segment.loss.tree_energy.high_level is true, but a "
                    f"{type(net).__name__} does not give its features. Set "
                    "segment.loss.tree_energy.high_level to false."
                )
            channels: Any = net.feature_channels
            self.embedding = FeatureEmbedding(channels, tree.feature_channels)

    @property
    def needs_features(self) -> bool:
        """Whether any term looks at features."""
        return self.embedding is not None

    def forward(
        self,
        logits: Tensor,
        batch: dict[str, Tensor],
        features: FeatureMap | None,
        progress: float,
    ) -> dict[str, tuple[float, Tensor]]:
        """Compute the terms.

        Args:
            logits: (N, K, H, W) float.
            batch: ``image``, ``mask``, and ``valid`` where there is padding.
            features: Where `needs_features`.
            progress: Fraction of the training that is over, in [0, 1].

        Returns:
            Weight and value of each term; 0 where it has not started.

        Raises:
            RecipeError: When a kernel is too narrow to be computed.
        """
        found = {}
        for name in TERMS:
            config = getattr(self.config, name)
            if config is None or config.weight == 0:
                continue
            if progress < getattr(config, "start_frac", 0.0):
                value = 0 * logits.sum() + self._idle()
            elif name == "tree_energy":
                value = tree_energy(logits, batch, config, self._on_grid(logits, features, config))
            else:
                value = _COMPUTE[name](logits, batch, config)
            found[name] = (config.weight, value)
        return found

    def _on_grid(
        self, logits: Tensor, features: FeatureMap | None, config: TreeEnergyConfig
    ) -> Tensor | None:
        if self.embedding is None or features is None:
            return None
        cells = features_on_grid(features.values, features.size, logits, config.grid_px)
        embedded: Tensor = self.embedding(cells)
        return embedded

    def _idle(self) -> Tensor | float:
        """Use all parameters without effect: several processes must agree on what has gradients."""
        return sum((0 * parameter.sum() for parameter in self.parameters()), 0.0)


_COMPUTE: dict[str, Callable[[Tensor, dict[str, Tensor], Any], Tensor]] = {
    "constrain": constrain,
    "gated_crf": gated_crf,
    "dense_crf": dense_crf_loss,
    "normalised_cut": normalised_cut,
}
