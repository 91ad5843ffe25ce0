"""How fast and how exact the dense CRF is, against the reference C++ engine and float64.

Usage:
    python3.11 -m venv ref && ref/bin/pip install numpy==1.26.4 wheel "setuptools<70"
    ref/bin/pip install --no-build-isolation SimpleCRF==0.2.1.1
    python benchmarks/dense_crf.py --reference-python ref/bin/python

The reference is pydensecrf's engine in the package SimpleCRF (single-threaded C++); it runs in
its own process and gets its arrays as npz files. Samples of both alternate, so that a busy
moment of the machine hits both. 500 x 375 px, 10 iterations; both times start with the scores
and end with the result, and include building the lattices.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from _machine import command, describe
from wsseg.kernels import dense_crf as crf

SIZE = (375, 500)
PHOTOS = ("astronaut", "coffee", "chelsea")
PRESETS = ("psa", "irn")
PRUNE = 0.02

# Reads commands from its input: a path loads arrays, "go" runs once and prints the seconds.
REFERENCE = """
import sys, time
import numpy as np
import denseCRF
for line in sys.stdin:
    word = line.strip()
    if word != "go":
        data = np.load(word)
        image, scores, parameters = data["image"], data["scores"], tuple(data["parameters"])
        print("ready", flush=True)
        continue
    start = time.perf_counter()
    labels = denseCRF.densecrf(image, scores, parameters)
    seconds = time.perf_counter() - start
    np.save(path := data.fid.name + ".labels.npy", labels)
    print(seconds, path, flush=True)
"""

WARM_UP = """
import time
start = time.perf_counter()
import numpy as np
from wsseg.kernels.dense_crf import dense_crf
dense_crf(np.zeros((64, 64, 3), np.uint8), np.zeros((LABELS, 64, 64)))
print(time.perf_counter() - start)
"""


class ReferenceEngine:
    """A process of another interpreter that runs the C++ engine on demand."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [str(python), "-c", REFERENCE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer."""
        if self.process.stdin is None or self.process.stdout is None:
            raise SystemExit("The reference engine has no pipes.")
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("The reference engine ended: is SimpleCRF installed for it?")
        return answer.strip()

    def load(self, image: np.ndarray, scores: np.ndarray, config: crf.CrfConfig) -> None:
        """Hand over an image, its scores and the settings."""
        path = self.folder / "case.npz"
        channels_last = np.ascontiguousarray(np.clip(scores, 1e-5, 1).transpose(1, 2, 0))
        parameters = [
            config.bilateral_compat,
            config.bilateral_sxy_px,
            config.bilateral_srgb,
            config.gauss_compat,
            config.gauss_sxy_px,
            float(config.iterations),
        ]
        np.savez(path, image=image, scores=channels_last, parameters=np.array(parameters))
        self.ask(str(path))

    def run(self) -> tuple[float, np.ndarray]:
        """Return the seconds of one run, lattices included, and its labels."""
        seconds, path = self.ask("go").split(" ", 1)
        return float(seconds), np.load(path)


def load_photo(name: str) -> np.ndarray:
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(getattr(data, name)())
    return np.array(picture.resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def make_scores(num_labels: int, seed: int) -> np.ndarray:
    """Make soft blobs for up to three classes, and faint noise (sum 1e-3) for all others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    scores = 1e-3 / max(num_labels - 4, 1) * rng.random((num_labels, *SIZE))
    for label in range(1, min(num_labels, 4)):
        cx, cy = rng.uniform(0.2, 0.8, 2) * (SIZE[1], SIZE[0])
        spread = rng.uniform(0.1, 0.2) * SIZE[1]
        scores[label] = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * spread**2))
    scores[0] = (1 - scores[1:].max(axis=0)) ** 2
    return scores.astype(np.float32)


def load_float64() -> ModuleType:
    path = Path(__file__).parents[1] / "tests" / "kernels" / "crf_reference.py"
    spec = importlib.util.spec_from_file_location("crf_reference", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(
    engine: ReferenceEngine, calls: dict[str, Callable[[], np.ndarray]], repeats: int
) -> dict[str, float]:
    """Return the median seconds of each call and of the reference, samples in turn."""
    times: dict[str, list[float]] = {name: [] for name in ("reference", *calls)}
    for call in calls.values():
        call()
    engine.run()
    for _ in range(repeats):
        times["reference"].append(engine.run()[0])
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def make_calls(
    image: np.ndarray, scores: np.ndarray, config: crf.CrfConfig, threads: int
) -> dict[str, Callable[[], np.ndarray]]:
    def run(
        cached: bool = True, prune: float = 0.0, lattice: crf.CrfLattices | None = None
    ) -> np.ndarray:
        if not cached:
            crf.clear_lattice_cache()
        unary = crf.unary_from_scores(scores)
        return crf.dense_crf(
            image, unary, config=config, lattice=lattice, prune_below=prune, threads=threads
        )

    shared = crf.build_crf_lattices(image, config)
    calls: dict[str, Callable[[], np.ndarray]] = {
        "new lattices": lambda: run(cached=False),
        "Gaussian lattice cached": run,
        "both lattices shared": lambda: run(lattice=shared),
    }
    if len(scores) > 4:
        calls["pruned, Gaussian lattice cached"] = lambda: run(prune=PRUNE)
        calls["pruned, new lattices"] = lambda: run(cached=False, prune=PRUNE)
    return calls


def time_all(engine: ReferenceEngine, args: argparse.Namespace) -> None:
    ratios: dict[tuple[int, str], list[float]] = {}
    print("| photo | set | labels | reference ms | " + "what | ms | times faster |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: |")
    for num_labels in (3, 21):
        for photo in PHOTOS:
            for preset in PRESETS:
                image = load_photo(photo)
                scores = make_scores(num_labels, args.seed)
                config = crf.PRESETS[preset]
                engine.load(image, scores, config)
                calls = make_calls(image, scores, config, args.threads)
                found = measure(engine, calls, args.repeats)
                peer = found.pop("reference")
                for name, seconds in found.items():
                    ratios.setdefault((num_labels, name), []).append(peer / seconds)
                    print(
                        f"| {photo} | {preset} | {num_labels} | {peer * 1e3:.0f} | {name} "
                        f"| {seconds * 1e3:.1f} | {peer / seconds:.1f} |"
                    )
    print("\n| labels | what | times faster (geometric mean of 6) | smallest | largest |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for (num_labels, name), values in ratios.items():
        print(
            f"| {num_labels} | {name} | **{statistics.geometric_mean(values):.1f}** "
            f"| {min(values):.1f} | {max(values):.1f} |"
        )


def check_all(engine: ReferenceEngine | None, args: argparse.Namespace) -> None:
    float64 = load_float64()
    print("\n| photo | set | labels | what | mean difference | largest | same argmax |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    for photo in PHOTOS:
        for preset in PRESETS:
            for num_labels in (3, 21):
                image = load_photo(photo)
                scores = make_scores(num_labels, args.seed)
                unary = crf.unary_from_scores(scores)
                config = crf.PRESETS[preset]
                expected = float64.lattice_marginals(image, unary, config)
                cases = {"all labels": 0.0} | ({"pruned": PRUNE} if num_labels > 4 else {})
                for name, prune in cases.items():
                    found = crf.dense_crf(image, unary, config=config, prune_below=prune)
                    difference = np.abs(found - expected)
                    same = (found.argmax(axis=0) == expected.argmax(axis=0)).mean()
                    print(
                        f"| {photo} | {preset} | {num_labels} | {name} | {difference.mean():.1e} "
                        f"| {difference.max():.1e} | {same:.6f} |"
                    )
                if engine is not None:
                    engine.load(image, scores, config)
                    same = (engine.run()[1] == expected.argmax(axis=0)).mean()
                    print(f"| {photo} | {preset} | {num_labels} | reference | | | {same:.6f} |")


def time_compilation() -> None:
    print("\n| first call in a new process, import included | seconds |\n| --- | ---: |")
    for num_labels in (3, 21):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("compiled anew", "from numba's disk cache"):
                result = subprocess.run(
                    [sys.executable, "-c", WARM_UP.replace("LABELS", str(num_labels))],
                    env=os.environ | {"NUMBA_CACHE_DIR": folder},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                print(f"| {num_labels} labels, {name} | {float(result.stdout):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference-python", type=Path, help="interpreter that has SimpleCRF")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"Dense CRF, {SIZE[1]} x {SIZE[0]} px, 10 iterations, {args.threads} thread(s)\n")
    print(f"`{command()}` on {describe()}; load {os.getloadavg()[0]:.1f} at the start\n")
    with tempfile.TemporaryDirectory() as folder:
        engine = None
        if args.reference_python is not None:
            engine = ReferenceEngine(args.reference_python, Path(folder))
            time_all(engine, args)
            print(f"\nLoad {os.getloadavg()[0]:.1f} after timing.")
        check_all(engine, args)
        if engine is not None:
            engine.process.kill()
            engine.process.wait()
    time_compilation()


if __name__ == "__main__":
    main()
