"""How fast class maps come from a trained network, against pytorch-grad-cam.

Usage:
    pip install --no-deps --target PEER grad-cam ttach
    PYTHONPATH=PEER python benchmarks/cam_extraction.py [--repeats 5] [--threads 2]

One 500 x 375 px image, ResNet-50 at stride 32, random weights unless given, three classes. Maps at
four scales with mirroring (0.5, 1, 1.5, 2): the peer is called once per class, scale and mirror
image.
Grad-CAM at one scale: the peer is called once per class. All methods start with the uint8 image
and end with one normalised map per class at a quarter of the image's size; runs alternate, medians.
The copy of the network that `prepare` makes is made once per data set and not timed.

"Largest difference" is that of the normalised maps from a plain float32 forward pass, written here.
The peer brings every map to [0, 1] before it is averaged, so its maps differ by more than rounding.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from _machine import command, describe
from wsseg.data.colour import normalise
from wsseg.localize.config import GradCamExtractor, InferenceConfig
from wsseg.localize.inference import class_maps, prepare
from wsseg.nets.build import build_backbone
from wsseg.nets.cam_head import ClassMapNet

SIZE = (375, 500)
GRID = (94, 125)
CLASSES = (1, 2, 3)
SCALES = (0.5, 1.0, 1.5, 2.0)
STRIDE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--weights", default="none", help="none, imagenet or a file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    image = make_image()
    net = make_network(image, arguments.weights)
    print(f"`{command()}`, {arguments.threads} threads; {describe()}\n")
    print("| maps | method | ms | times faster | largest difference | correlation |")
    print("|---|---|---|---|---|---|")
    several = {
        "pytorch-grad-cam, one call each": peer(net, image, SCALES, flip=True),
        "plain forward pass, all classes": lambda: plain_maps(net, image, SCALES, flip=True),
        "wsseg float32": ours(net, image, InferenceConfig(scales=SCALES)),
        "wsseg bfloat16": ours(net, image, InferenceConfig(scales=SCALES, precision="bfloat16")),
    }
    expected = plain_maps(net, image, SCALES, flip=True)
    report("4 scales, mirrored", several, expected, arguments.repeats)
    gradient = InferenceConfig(scales=(1.0,), flip=False, extractor=GradCamExtractor())
    single = {
        "pytorch-grad-cam, one call each": peer(net, image, (1.0,), flip=False),
        "wsseg grad_cam": ours(net, image, gradient),
    }
    # Grad-CAM of a linear head behind an average is the class map, up to a factor.
    expected = plain_maps(net, image, (1.0,), flip=False)
    report("1 scale, gradients", single, expected, arguments.repeats)


def make_network(image: np.ndarray, weights: str) -> ClassMapNet:
    """Make a ResNet-50 that, where its weights are random, amplifies rounding little.

    Then batch normalisation gets the statistics of the image itself, since features of random
    networks are otherwise nearly the same everywhere, and blocks change little of their input.
    """
    torch.manual_seed(0)
    backbone = build_backbone("resnet50", weights=weights, output_stride=STRIDE)
    net = ClassMapNet(backbone, num_classes=20).train(weights == "none")
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and weights == "none":
            module.momentum = 1.0
            torch.nn.init.constant_(module.weight, 0.2 if name.endswith("bn3") else 1.0)
    images = scaled(image, 1.0)
    with torch.no_grad():
        net.features(images)
        net.eval().head.weight /= net.maps(images).std()
    return net


def make_image() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.coffee()[: SIZE[0], : SIZE[1]])


def ours(net: ClassMapNet, image: np.ndarray, config: InferenceConfig) -> Callable[[], np.ndarray]:
    prepared = prepare(net, config)
    return lambda: class_maps(prepared, image, CLASSES, config)[0].values[1:]


def scaled(image: np.ndarray, scale: float) -> torch.Tensor:
    """Resize to whole cells, as (1, 3, H, W) normalised float32."""
    import cv2

    height, width = (STRIDE * round(side * scale / STRIDE) for side in image.shape[:2])
    is_smaller = height < image.shape[0] and width < image.shape[1]
    method = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=method)
    return torch.from_numpy(normalise(np.asarray(resized, np.uint8)))[None]


def on_grid(maps: torch.Tensor) -> torch.Tensor:
    return F.interpolate(maps, size=GRID, mode="bilinear", align_corners=False, antialias=True)


def normalised(total: torch.Tensor) -> np.ndarray:
    return (total / (total.amax(dim=(1, 2), keepdim=True) + 1e-5)).numpy()


def plain_maps(
    net: ClassMapNet, image: np.ndarray, scales: tuple[float, ...], *, flip: bool
) -> np.ndarray:
    """Compute the maps (3, h, w) as they are defined: nothing folded, image and mirror a batch."""
    rows = [class_id - 1 for class_id in CLASSES]
    total, num_passes = torch.zeros(len(rows), *GRID), 0
    with torch.no_grad():
        for scale in scales:
            images = scaled(image, scale)
            batch = torch.cat([images, images.flip(3)]) if flip else images
            found = net.maps(batch)[:, rows].relu()
            maps = on_grid(torch.cat([found[:1], found[1:].flip(3)]))
            total, num_passes = total + maps.sum(0), num_passes + len(batch)
    return normalised(total / num_passes)


def peer(
    net: ClassMapNet, image: np.ndarray, scales: tuple[float, ...], *, flip: bool
) -> Callable[[], np.ndarray]:
    """Make a call of pytorch-grad-cam's Grad-CAM for every class, scale and mirror image."""
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise SystemExit(
            f"The peer cannot be imported ({error}). Install it outside of wsseg's environment: "
            "pip install --no-deps --target PEER grad-cam ttach, then set PYTHONPATH=PEER."
        ) from error
    trunk: Any = net.backbone.trunk
    cam = GradCAM(model=net, target_layers=[trunk.layer4[-1]])

    def extract() -> np.ndarray:
        total = torch.zeros(len(CLASSES), *GRID)
        for scale in scales:
            images = scaled(image, scale)
            for is_mirrored in (False, True) if flip else (False,):
                view = images.flip(3) if is_mirrored else images
                for row, class_id in enumerate(CLASSES):
                    found = cam(view, targets=[ClassifierOutputTarget(class_id - 1)])
                    one = torch.from_numpy(np.ascontiguousarray(found))[None]
                    total[row] += on_grid(one.flip(3) if is_mirrored else one)[0, 0]
        return normalised(total)

    return extract


def report(
    what: str, methods: dict[str, Callable[[], np.ndarray]], expected: np.ndarray, repeats: int
) -> None:
    """Time methods in turn, so that a busy moment hits all of them, and print a row of each."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    results = {name: method() for name, method in methods.items()}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            times[name].append((time.perf_counter() - start) * 1000)
    first = statistics.median(next(iter(times.values())))
    for name, values in times.items():
        took = statistics.median(values)
        difference = np.abs(results[name] - expected).max()
        correlation = np.corrcoef(results[name].ravel(), expected.ravel())[0, 1]
        print(
            f"| {what} | {name} | {took:.0f} | {first / took:.1f} | {difference:.1e} | "
            f"{correlation:.5f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
