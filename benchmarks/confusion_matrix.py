"""How fast pixels are counted, against torchmetrics and NumPy, in one interleaved run.

Usage: python benchmarks/confusion_matrix.py [--repeats 30] [--threads 1]

Prints a Markdown table: milliseconds per image (median), and the ratio to torchmetrics' MeanIoU.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np

from _machine import command, describe
from wsseg.data.scores import Scores
from wsseg.evaluate.boundary import boundary_counts
from wsseg.evaluate.confusion import pair_counts
from wsseg.evaluate.sweep import ThresholdSweep

NUM_CLASSES = 20
SIZE = (375, 500)


def make_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a ground truth of ellipses with a void rim, and a prediction that is a bit off."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    truth = np.zeros(SIZE, np.uint8)
    prediction = np.zeros(SIZE, np.uint8)
    for class_id in rng.choice(np.arange(1, NUM_CLASSES + 1), 3, replace=False):
        cy, cx = rng.uniform(0.2, 0.8, 2) * SIZE
        ry, rx = rng.uniform(30, 120, 2)
        radius = np.hypot((y - cy) / ry, (x - cx) / rx)
        truth[radius < 1.05] = 255
        truth[radius < 1] = class_id
        prediction[np.hypot((y - cy - 5) / ry, (x - cx + 8) / rx) < 1] = class_id
    return prediction, truth


def make_scores(prediction: np.ndarray, seed: int) -> Scores:
    import cv2

    rng = np.random.default_rng(seed)
    ids = [int(c) for c in np.unique(prediction) if c]
    rows = [np.zeros((94, 125), np.float32)]
    for class_id in ids:
        small = cv2.resize((prediction == class_id).astype(np.float32), (125, 94))
        rows.append(
            np.clip(cv2.GaussianBlur(small, (0, 0), 3) + 0.1 * rng.random(small.shape), 0, 1)
        )
    return Scores(np.stack(rows).astype(np.float32), np.array([0, *ids], np.uint8), SIZE)


def numpy_bincount(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    known = truth != 255
    pairs = truth[known].astype(np.int64) * (NUM_CLASSES + 1) + prediction[known]
    return np.bincount(pairs, minlength=(NUM_CLASSES + 1) ** 2)


def median_ms(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time calls in turn, so that a busy moment of the machine hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def sixty_argmaxes(scores: Scores, truth: np.ndarray) -> None:
    values = scores.resized()
    for step in range(60):
        values[0] = step / 100
        pair_counts(scores.class_ids[values.argmax(axis=0)], truth, NUM_CLASSES)


def print_table(found: dict[str, float], peer_name: str, peer_words: str) -> None:
    print(f"| what | ms per image | times faster than {peer_words} |\n| --- | ---: | ---: |")
    for name, value in found.items():
        print(f"| {name} | {value:.3f} | {found[peer_name] / value:.1f} |")


def time_counting(repeats: int, num_threads: int) -> None:
    import torch
    from torchmetrics.classification import MulticlassJaccardIndex
    from torchmetrics.segmentation import MeanIoU

    torch.set_num_threads(num_threads)
    warnings.filterwarnings("ignore", module="torchmetrics")
    prediction, truth = make_masks(0)
    # MeanIoU cannot ignore 255: it gets background there.
    filled = torch.from_numpy(np.where(truth == 255, 0, truth).astype(np.int64))[None]
    predicted = torch.from_numpy(prediction.astype(np.int64))[None]
    with_void = torch.from_numpy(truth.astype(np.int64))[None]
    mean_iou = MeanIoU(num_classes=NUM_CLASSES + 1, per_class=True, input_format="index")
    jaccard = MulticlassJaccardIndex(num_classes=NUM_CLASSES + 1, ignore_index=255)
    counts = pair_counts(prediction, truth, NUM_CLASSES)
    if counts[:, :-1].ravel().tolist() != numpy_bincount(prediction, truth).tolist():
        raise SystemExit("The counts differ from NumPy's.")
    calls: dict[str, Callable[[], object]] = {
        "torchmetrics MeanIoU.update": lambda: mean_iou.update(predicted, filled),
        "torchmetrics MulticlassJaccardIndex.update": lambda: jaccard.update(predicted, with_void),
        "np.bincount with a mask": lambda: numpy_bincount(prediction, truth),
        "wsseg pair_counts": lambda: pair_counts(prediction, truth, NUM_CLASSES),
        "wsseg boundary_counts (all classes)": lambda: boundary_counts(
            prediction, truth, NUM_CLASSES
        ),
    }
    print(
        f"Confusion matrix, {SIZE[1]} x {SIZE[0]} px, {NUM_CLASSES + 1} classes, "
        f"{num_threads} torch thread(s)\n"
    )
    print_table(median_ms(calls, repeats), "torchmetrics MeanIoU.update", "MeanIoU")


def time_sweep(repeats: int) -> None:
    prediction, truth = make_masks(0)
    scores = make_scores(prediction, 0)
    sweep = ThresholdSweep(NUM_CLASSES)
    calls: dict[str, Callable[[], object]] = {
        "60 argmaxes and confusion matrices": lambda: sixty_argmaxes(scores, truth),
        "wsseg ThresholdSweep.add": lambda: sweep.add(scores, truth),
    }
    print(f"\nSweep over 60 background thresholds, {len(scores.present)} present classes\n")
    print_table(median_ms(calls, repeats), "60 argmaxes and confusion matrices", "60 argmaxes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    repeats = options.repeats
    print(f"{describe()}\n\n`{command()}`\n")
    time_counting(repeats, options.threads)
    time_sweep(max(3, repeats // 5))


if __name__ == "__main__":
    main()
