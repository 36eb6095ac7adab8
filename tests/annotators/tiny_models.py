"""Tiny transformers models with random weights, saved as the hub has them."""

import torch
import transformers


def save_dpt(folder, *, hybrid=False):
    """A DPT with a plain ViT, or with a small BiT in front as in Intel/dpt-hybrid-midas."""
    torch.manual_seed(0)
    extra = {}
    if hybrid:
        extra = {
            "is_hybrid": True,
            "backbone_config": {
                "model_type": "bit",
                "global_padding": "same",
                "layer_type": "bottleneck",
                "depths": [1, 1, 1],
                "hidden_sizes": [32, 64, 128],
                "embedding_size": 32,
                "num_groups": 8,
                "out_features": ["stage1", "stage2", "stage3"],
                "embedding_dynamic_padding": True,
            },
            "backbone_featmap_shape": [1, 128, 4, 4],
            "neck_hidden_sizes": [32, 64, 32, 32],
        }
    config = transformers.DPTConfig(
        **{
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 64,
            "patch_size": 16,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
            "initializer_range": 0.2,
            **extra,
        }
    )
    model = transformers.DPTForDepthEstimation(config)
    _answer_within_reach(model.head.head[4])
    model.save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 64, "width": 64},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    ).save_pretrained(folder)
    return str(folder)


def save_depth_anything(folder, *, kind="relative", max_depth=1):
    torch.manual_seed(0)
    config = transformers.DepthAnythingConfig(
        backbone_config={
            "model_type": "dinov2",
            "image_size": 56,
            "patch_size": 14,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "initializer_range": 0.2,
            "out_indices": [1, 2, 3, 4],
            "reshape_hidden_states": False,
        },
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
        initializer_range=0.2,
        depth_estimation_type=kind,
        max_depth=max_depth,
    )
    model = transformers.DepthAnythingForDepthEstimation(config)
    if kind == "relative":
        _answer_within_reach(model.head.conv3)
    else:
        torch.nn.init.normal_(model.head.conv3.weight, std=0.02)
    model.save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(folder)
    return str(folder)


def save_glpn(folder):
    """Metric: metres out of a sigmoid."""
    torch.manual_seed(0)
    config = transformers.GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        initializer_range=0.2,
        max_depth=10,
    )
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)
    transformers.GLPNImageProcessor().save_pretrained(folder)
    return str(folder)


def save_zoedepth(folder):
    """Metric, with a processor that pads."""
    torch.manual_seed(0)
    config = transformers.ZoeDepthConfig(
        backbone_config={
            "model_type": "beit",
            "image_size": 64,
            "patch_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "use_relative_position_bias": True,
            "reshape_hidden_states": False,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        backbone_hidden_size=32,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
        bottleneck_features=16,
        num_relative_features=8,
        bin_embedding_dim=16,
        num_attractors=[4, 2, 2, 1],
        initializer_range=0.2,
    )
    transformers.ZoeDepthForDepthEstimation(config).save_pretrained(folder)
    transformers.ZoeDepthImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def save_segformer(folder, *, labels=150):
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_labels=labels,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        initializer_range=0.2,
    )
    model = transformers.SegformerForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    model.save_pretrained(folder)
    _processor_of_segmentation(folder)
    return str(folder)


def save_upernet(folder, *, labels=150):
    torch.manual_seed(0)
    config = transformers.UperNetConfig(
        backbone_config={
            "model_type": "convnext",
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        hidden_size=16,
        auxiliary_in_channels=16,
        auxiliary_channels=8,
        initializer_range=0.2,
        num_labels=labels,
    )
    model = transformers.UperNetForSemanticSegmentation(config)
    torch.nn.init.normal_(model.decode_head.classifier.weight)
    model.save_pretrained(folder)
    _processor_of_segmentation(folder)
    return str(folder)


def _processor_of_segmentation(folder):
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def _answer_within_reach(last):
    """Random weights answer 0 behind the last ReLU nearly everywhere; lift and widen it."""
    torch.nn.init.normal_(last.weight, std=0.5)
    torch.nn.init.constant_(last.bias, 5.0)
