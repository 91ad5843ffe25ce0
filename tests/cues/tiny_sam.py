"""Networks of the SAM family with random weights, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SIZE = 64
PROMPTS = {"hidden_size": 16, "image_size": SIZE, "mask_input_channels": 4}
DECODER = {
    "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}  # fmt: skip


def make_sam(*, is_hq: bool = False) -> tuple[Any, Any]:
    import transformers as hf

    kind = "SamHQ" if is_hq else "Sam"
    vision = getattr(hf, f"{kind}VisionConfig")(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIZE, patch_size=8, window_size=4, global_attn_indexes=[1], num_pos_feats=8,
        mlp_dim=16, initializer_range=0.5,
    )  # fmt: skip
    prompts = getattr(hf, f"{kind}PromptEncoderConfig")(**PROMPTS, patch_size=8)
    extra = {"vit_dim": 16} if is_hq else {}
    decoder = getattr(hf, f"{kind}MaskDecoderConfig")(**DECODER, **extra)
    settings = getattr(hf, f"{kind}Config")(
        vision_config=vision.to_dict(), prompt_encoder_config=prompts.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )  # fmt: skip
    images = hf.SamImageProcessor(
        size={"longest_edge": SIZE}, pad_size={"height": SIZE, "width": SIZE},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    return getattr(hf, f"{kind}Model")(settings), getattr(hf, f"{kind}Processor")(images)


def sam2_processor() -> Any:
    import transformers as hf

    square = {"height": SIZE, "width": SIZE}
    return hf.Sam2Processor(
        hf.Sam2ImageProcessor(size=square, mask_size={"height": 16, "width": 16})
    )


LEVELS = [[16, 16], [8, 8], [4, 4]]


def make_sam2() -> tuple[Any, Any]:
    import transformers as hf

    backbone = hf.Sam2HieraDetConfig(
        hidden_size=8, image_size=[SIZE, SIZE], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[8, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = hf.Sam2VisionConfig(
        backbone_config=backbone.to_dict(), backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=LEVELS, fpn_hidden_size=16,
    )  # fmt: skip
    settings = hf.Sam2Config(
        vision_config=vision.to_dict(),
        prompt_encoder_config=hf.Sam2PromptEncoderConfig(**PROMPTS, patch_size=16).to_dict(),
        mask_decoder_config=hf.Sam2MaskDecoderConfig(**DECODER).to_dict(),
    )
    return hf.Sam2Model(settings), sam2_processor()


def make_edgetam() -> tuple[Any, Any]:
    import transformers as hf

    backbone = hf.TimmWrapperConfig(
        architecture="test_resnet",
        model_args={"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    )
    vision = hf.EdgeTamVisionConfig(
        backbone_config=backbone.to_dict(), backbone_channel_list=[96, 192, 48, 32],
        backbone_feature_sizes=LEVELS, fpn_hidden_size=16,
    )  # fmt: skip
    settings = hf.EdgeTamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=hf.EdgeTamPromptEncoderConfig(**PROMPTS, patch_size=16).to_dict(),
        mask_decoder_config=hf.EdgeTamMaskDecoderConfig(**DECODER).to_dict(),
    )
    return hf.EdgeTamModel(settings), sam2_processor()


def make_sam3_tracker() -> tuple[Any, Any]:
    import transformers as hf

    backbone = hf.Sam3ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIZE, patch_size=16, window_size=2, global_attn_indexes=[1],
        pretrain_image_size=SIZE,
    )  # fmt: skip
    vision = hf.Sam3VisionConfig(
        backbone_config=backbone.to_dict(), fpn_hidden_size=16, backbone_feature_sizes=LEVELS
    )
    settings = hf.Sam3TrackerConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=hf.Sam3TrackerPromptEncoderConfig(**PROMPTS, patch_size=16).to_dict(),
        mask_decoder_config=hf.Sam3TrackerMaskDecoderConfig(**DECODER).to_dict(),
    )
    images = hf.Sam3ImageProcessor(
        size={"height": SIZE, "width": SIZE}, mask_size={"height": 16, "width": 16}
    )
    return hf.Sam3TrackerModel(settings), hf.Sam3TrackerProcessor(images)


FAMILIES = {
    "sam": make_sam,
    "sam_hq": lambda: make_sam(is_hq=True),
    "sam2": make_sam2,
    "edgetam": make_edgetam,
    "sam3_tracker": make_sam3_tracker,
}


def save_tiny_sam(folder: Path, family: str = "sam") -> tuple[Any, Any]:
    """Save a network with its processor, and return both."""
    torch.manual_seed(0)
    network, processor = FAMILIES[family]()
    network = network.eval()
    # The weights of a fresh network are so small that all its logits are about zero.
    for name, values in network.named_parameters():
        if "output_hypernetworks" in name and "proj_out" in name:
            values.data.mul_(3000)
        if "iou_prediction_head.proj_out" in name:
            # Predicted overlaps around 0.5, which differ from prompt to prompt.
            values.data.mul_(20) if values.ndim == 2 else values.data.fill_(
                0.5 if family.startswith("sam_") or family == "sam" else 0.0
            )
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor
