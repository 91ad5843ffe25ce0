from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wsseg.errors import RecipeError
from wsseg.nets.attention import attention_maps, num_attention_layers
from wsseg.nets.backbones import Backbone
from wsseg.nets.build import build_backbone

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}
# Architecture, options and how many tokens come before the patches.
NETWORKS = {
    "class token": ("vit_tiny_patch16_224", {"dynamic_img_size": True}, 1),
    "distilled": ("deit_tiny_distilled_patch16_224", {"dynamic_img_size": True}, 2),
    "registers": ("vit_tiny_patch16_224", {"dynamic_img_size": True, "reg_tokens": 4}, 5),
    "no token": (
        "vit_tiny_patch16_224",
        {"dynamic_img_size": True, "class_token": False, "global_pool": "avg"},
        0,
    ),
    "rotary": ("vit_small_patch16_rope_224", {"dynamic_img_size": True}, 1),
    "eva": ("eva02_tiny_patch14_224", {"dynamic_img_size": True, "patch_size": 16}, 1),
    "beit": ("beit_base_patch16_224", {"img_size": 64}, 1),
}


def make_network(kind: str) -> tuple[Backbone, int]:
    import timm

    name, options, num_prefix = NETWORKS[kind]
    torch.manual_seed(0)
    trunk = timm.create_model(name, **SMALL, **options)
    for parameter in trunk.parameters():
        # Fresh transformers look at all patches alike.
        torch.nn.init.normal_(parameter, std=0.3)
    return Backbone(trunk, name).eval(), num_prefix


def make_images(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def attention_of_fused_kernels(backbone, images, monkeypatch) -> list[torch.Tensor]:
    """Compute, in float64, the attention (N, heads, T, T) of what the fused kernels are given."""
    found = []
    kernel = F.scaled_dot_product_attention

    def spy(q, k, v, attn_mask=None, **options):
        logits = q.double() @ k.double().transpose(2, 3) / q.shape[-1] ** 0.5
        found.append((logits if attn_mask is None else logits + attn_mask.double()).softmax(-1))
        return kernel(q, k, v, attn_mask=attn_mask, **options)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(F, "scaled_dot_product_attention", spy)
        backbone(images)
    return found


@pytest.mark.parametrize("kind", NETWORKS)
def test_attention_is_that_of_the_fused_kernels_without_special_tokens(kind, monkeypatch):
    backbone, num_prefix = make_network(kind)
    images = make_images(64, 64, count=2)
    heads = attention_of_fused_kernels(backbone, images, monkeypatch)
    assert len(heads) == SMALL["depth"] == num_attention_layers(backbone)
    expected = torch.stack([one.mean(1)[:, num_prefix:, num_prefix:] for one in heads], 1)
    with torch.no_grad():
        found = attention_maps(backbone, images)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 16, 16)
    assert (expected.std(-1) > 1e-3).any()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_patches_that_show_padding_are_left_out(monkeypatch):
    backbone = build_backbone("test_vit", output_stride=8).eval()
    images = make_images(40, 50)
    [*_, last] = attention_of_fused_kernels(backbone, images, monkeypatch)
    # Padded to 48 x 64, which has 6 x 8 cells of 8 px; 5 x 7 of them show the image.
    inside = [1 + 8 * row + column for row in range(5) for column in range(7)]
    expected = last.mean(1)[:, inside][:, :, inside]
    with torch.no_grad():
        found = attention_maps(backbone, images, layers=[-1])[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    assert found.shape[1] == backbone(images)[0, 0].numel()


def test_rows_sum_to_at_most_one_and_to_one_without_special_tokens():
    images = make_images(64, 48)
    with torch.no_grad():
        with_token = attention_maps(make_network("class token")[0], images).sum(-1)
        without = attention_maps(make_network("no token")[0], images).sum(-1)
    assert (with_token < 1).all()
    torch.testing.assert_close(without, torch.ones_like(without))


def test_layers_and_heads_can_be_chosen_from_both_ends(monkeypatch):
    backbone, _ = make_network("class token")
    images = make_images(32, 32)
    heads = attention_of_fused_kernels(backbone, images, monkeypatch)
    with torch.no_grad():
        every = attention_maps(backbone, images)
        chosen = attention_maps(backbone, images, layers=[2, -3, 2])
        second = attention_maps(backbone, images, layers=[0], heads=[-1])
    torch.testing.assert_close(chosen, every[:, [2, 0, 2]])
    expected = heads[0][:, 1, 1:, 1:]
    torch.testing.assert_close(second[:, 0].double(), expected, atol=1e-6, rtol=1e-5)


def test_the_network_is_left_as_it_was():
    backbone, _ = make_network("class token")
    images = make_images(32, 32)
    with torch.no_grad():
        before = backbone(images)
        attention_maps(backbone, images)
        after = backbone(images)
    assert torch.equal(before, after)
    for module in backbone.modules():
        assert getattr(module, "fused_attn", True)
        assert not module._forward_pre_hooks


def test_the_network_is_left_as_it_was_after_an_error():
    backbone, _ = make_network("class token")
    with pytest.raises(RecipeError):
        attention_maps(backbone, make_images(32, 32), heads=[7])
    for module in backbone.modules():
        assert getattr(module, "fused_attn", True)
        assert not module._forward_pre_hooks


def test_gradients_flow_where_they_are_wanted():
    backbone, _ = make_network("class token")
    attention_maps(backbone, make_images(32, 32), layers=[1])[..., 0, 1].sum().backward()
    blocks = backbone.trunk.blocks
    assert blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert blocks[2].attn.qkv.weight.grad is None


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_network_without_attention_between_patches_is_refused_by_name(name):
    backbone = build_backbone(name, output_stride=16).eval()
    message = rf'"{name}" has no self-attention.*localize.backbone=deit_small_patch16_224'
    with pytest.raises(RecipeError, match=message):
        attention_maps(backbone, make_images(64, 64))
    with pytest.raises(RecipeError, match=message):
        num_attention_layers(backbone)


class InTwoHalves(torch.nn.Module):
    """Attention within the first and within the second half of the tokens only."""

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, tokens: torch.Tensor, **_options: object) -> torch.Tensor:
        count, length, width = tokens.shape
        return self.attention(tokens.reshape(2 * count, length // 2, width)).view(tokens.shape)


def test_attention_within_windows_or_none_at_all_is_refused():
    backbone, _ = make_network("no token")
    images = make_images(64, 64)
    block = backbone.trunk.blocks[1]
    block.attn = InTwoHalves(block.attn)
    assert attention_maps(backbone, images, layers=[0, 2]).shape == (1, 2, 16, 16)
    with pytest.raises(RecipeError, match="no self-attention between all its patches"):
        attention_maps(backbone, images)
    for block in backbone.trunk.blocks:
        block.attn = torch.nn.Identity()
    with pytest.raises(RecipeError, match="no self-attention between all its patches"):
        attention_maps(backbone, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [0, 3]}, r"3 attention layers, numbered 0 to 2.*\[3\] is none of them"),
        ({"layers": []}, "none is named"),
        ({"heads": [-3]}, r"2 attention heads, numbered 0 to 1.*\[-3\]"),
    ],
)
def test_a_wrong_layer_or_head_is_named(options, message):
    backbone, _ = make_network("class token")
    with pytest.raises(RecipeError, match=message):
        attention_maps(backbone, make_images(32, 32), **options)
