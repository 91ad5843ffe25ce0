"""CLIP as loaded by ``transformers``: text embeddings, softmax Grad-CAM and attention of an image.

References: Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021 (CLIP); Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023
(CLIP-ES), see `wsseg.localize.clip_es`. Nothing is loaded by pickle and no code of a repository is
run. Networks are not rebuilt: the last normalisation before attention is cut out of the graph by a
hook, so that gradients run through the last block alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsseg.errors import MissingExtraError, RecipeError, WssegError
from wsseg.nets.transformers_folder import cannot_load, check_network_folder

_REMEDY = (
    "On a machine without network, copy its folder (config.json, model.safetensors, tokenizer and "
    "preprocessor files) and name it (--set localize.model=FOLDER), or use a recipe that needs no "
    "CLIP, such as cam."
)
# Prompts that go through the text network at once.
_CHUNK = 64
Pooling = Literal["patches", "class"]


def softmax_gradient(logits: Tensor, index: int) -> Tensor:
    """Differentiate the softmax probability of one of several logits, up to a positive factor.

    ``d p_c / d l_j = p_c ([c = j] - p_j)``; ``1 - p_c`` is the sum of the others, so that a
    probability that rounds to one still has a gradient. The factor ``1 / (p_c (1 - p_c))`` brings
    the largest value to one; maps are scaled to their maximum afterwards.

    Args:
        logits: (K,) float.
        index: c.

    Returns:
        (K,) float64: 1 at c, and minus the shares of the others in their sum.

    Example:
        >>> softmax_gradient(torch.tensor([50.0, 0.0, 0.0]), 0).tolist()
        [1.0, -0.5, -0.5]
    """
    values = logits.detach().double()
    others = torch.ones_like(values, dtype=torch.bool)
    others[index] = False
    gradient = torch.ones_like(values)
    gradient[others] = -torch.softmax(values[others], dim=0)
    return gradient


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh channels by their mean gradient, and keep evidence for the class.

    Args:
        activations: (n, D) of n patches.
        gradients: (n, D).

    Returns:
        (n,) not negative: ``ReLU( sum_k A_k mean_u G_k(u) )``.

    Example:
        >>> grad_cam(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, -1.0]] * 2))
        tensor([2., 0.])
    """
    return (activations @ gradients.mean(dim=0)).relu()


class ClipNetwork:
    """A loaded CLIP with its preprocessing.

    Args:
        name: Local folder, or name on the Hugging Face hub.
        device: Where it runs.

    Attributes:
        patch_px: Side of a patch, pixels.

    Raises:
        MissingExtraError: When ``transformers`` is not installed.
        MissingWeightsError: When the network is neither there nor reachable.
        RecipeError: When it is no CLIP with a vision transformer.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("Localizer clip_es", "clip") from error
        check_network_folder(name)
        try:
            settings = transformers.AutoConfig.from_pretrained(name)
            if settings.model_type != "clip":
                raise RecipeError(
                    f"{name} is a {settings.model_type} network, not CLIP. Name a CLIP with a "
                    "vision transformer, such as openai/clip-vit-base-patch16."
                )
            processor = transformers.AutoProcessor.from_pretrained(name)
            # Fused attention gives no weights, and weights may be stored in 16 bits.
            network = transformers.CLIPModel.from_pretrained(
                name, use_safetensors=True, attn_implementation="eager", dtype=torch.float32
            )
        except WssegError:
            raise
        except Exception as error:  # transformers raises many kinds; all mean the same here
            raise cannot_load(name, error, _REMEDY) from error
        self.name, self.device = name, device
        self.network: Any = network.eval().requires_grad_(False).to(device)
        self._tokenizer = processor.tokenizer
        self._mean = np.array(processor.image_processor.image_mean, np.float32)
        self._std = np.array(processor.image_processor.image_std, np.float32)
        self.patch_px = int(self.network.config.vision_config.patch_size)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that are longer than the text network reads.

        Raises:
            RecipeError: Naming the first of them.
        """
        most = int(self.network.config.text_config.max_position_embeddings)
        for prompt in prompts:
            length = len(self._tokenizer(prompt)["input_ids"])
            if length > most:
                raise RecipeError(
                    f'The prompt "{prompt[:60]}..." has {length} tokens, but {self.name} reads '
                    f"{most}. Shorten it in localize.prompts, background or templates."
                )

    @torch.no_grad()
    def texts(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """Embed groups of prompts, each by the mean of its prompts.

        Args:
            groups: Prompts that mean the same.

        Returns:
            (number of groups, E) float32 of length one.

        Raises:
            RecipeError: When a prompt is too long.
        """
        flat = [prompt for group in groups for prompt in group]
        self.check_prompts(flat)
        found = []
        for start in range(0, len(flat), _CHUNK):
            inputs = self._tokenizer(
                flat[start : start + _CHUNK], padding=True, return_tensors="pt"
            ).to(self.device)
            pooled = self.network.text_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
            found.append(F.normalize(self.network.text_projection(pooled), dim=-1))
        parts = torch.cat(found).split([len(group) for group in groups])
        return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)

    def planes(self, image: NDArray[np.uint8]) -> Tensor:
        """Normalise an image (h, w, 3) uint8 to (1, 3, h, w) float32 on the device."""
        values = (image.astype(np.float32) / 255 - self._mean) / self._std
        planes = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
        return planes[None].to(self.device)

    def explain(
        self, planes: Tensor, texts: Tensor, num_wanted: int, *, num_layers: int, pooling: Pooling
    ) -> tuple[Tensor, Tensor]:
        """Explain the softmax probabilities of texts by patches, and read the attention.

        Args:
            planes: (1, 3, h p, w p) of `planes`, p pixels per patch.
            texts: (K, E) of `texts`; the softmax is over all of them.
            num_wanted: F, how many of the first texts get a map.
            num_layers: Attention is averaged over this many last layers, at most all.
            pooling: What stands for the image: the mean of its patches, or the class token.

        Returns:
            Maps (F, n) float32 of the n = h w patches, and attention (n, n) float64, mean over
            layers and heads, without the class token.
        """
        vision = self.network.vision_model
        layers = list(vision.encoder.layers)
        watched = [layer.self_attn for layer in layers[-num_layers:]]
        with (
            torch.enable_grad(),
            _watched(watched) as weights,
            _leaf(layers[-1].layer_norm1) as leaves,
        ):
            tokens = vision(planes, interpolate_pos_encoding=True).last_hidden_state
            tokens = vision.post_layernorm(tokens)
            pooled = tokens[:, 1:].mean(dim=1) if pooling == "patches" else tokens[:, 0]
            features = F.normalize(self.network.visual_projection(pooled), dim=-1)[0]
            logits = self.network.logit_scale.exp() * (texts @ features)
        activations = leaves[0]
        maps = []
        for index in range(num_wanted):
            weight = softmax_gradient(logits, index).to(logits.dtype)
            (gradient,) = torch.autograd.grad(logits, activations, weight, retain_graph=True)
            maps.append(grad_cam(activations.detach()[0, 1:], gradient[0, 1:]))
        attention = torch.stack(weights).mean(dim=0).double()
        return torch.stack(maps).float(), attention


@contextmanager
def _watched(modules: list[Any]) -> Iterator[list[Tensor]]:
    """Collect the attention weights (n, n) of modules, patches only, averaged over heads."""
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output[1].detach()[0].float().mean(dim=0)[1:, 1:])

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _leaf(module: Any) -> Iterator[list[Tensor]]:
    """Make the output of a module a leaf of the graph, and give it out."""
    leaves: list[Tensor] = []

    def cut(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    handle = module.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()
