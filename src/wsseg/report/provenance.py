"""What ran: the resolved recipe, how the stages went, which images failed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from wsseg.atomic import read_jsonl
from wsseg.cues.origin import cue_origins
from wsseg.localize.kinds import led_by
from wsseg.report.model import Failure, RecipeSummary, StageRun
from wsseg.rundir import MANIFEST_FILE, STAGE_FILE

STAGE_ORDER = (
    *("images", "ground_truth", "localize", "refine", "pseudo", "masks"),
    *("segment", "predictions", "evaluate"),
)
_SECTIONS = ("localize", "refine", "pseudo", "segment", "evaluate")
_OWN_KEYS = {"name", "title", "paper", "supervision", "seed", *_SECTIONS}
_TRAINING = "training"
_MASK_KEYS = ("use_masks", "tuned_on_masks")
_SUPERVISION_WORDS = {
    "I": "I: image tags",
    "S": "+S: saliency",
    "SAM": "+SAM: Segment Anything",
    "CLIP": "+CLIP: image-text pre-training",
}


def read_recipe(run_dir: Path, problems: list[str]) -> RecipeSummary | None:
    """Read ``recipe.yaml``.

    Args:
        run_dir: The run folder.
        problems: Gets a sentence when the file cannot be understood.

    Returns:
        What ran, or None when the file is missing or cannot be understood.
    """
    path = run_dir / "recipe.yaml"
    if not path.is_file():
        return None
    try:
        text = path.read_text("utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems.append(f"recipe.yaml cannot be read: {error}")
        return None
    if not isinstance(content, dict):
        problems.append("recipe.yaml is not a mapping of keys")
        return None
    seed = content.get("seed")
    return RecipeSummary(
        name=str(content.get("name") or "custom"),
        title=str(content.get("title") or ""),
        paper=str(content.get("paper") or ""),
        steps=tuple(_steps(content)),
        supervision=_supervision(content.get("supervision")),
        pretraining=tuple(_pretraining(content)),
        tuned_on_masks=tuple(_tuned_on_masks(run_dir, content)),
        seed=seed if isinstance(seed, int) else None,
        facts=(
            *(("cue of", line) for line in cue_origins(content)),
            *_comment_facts(text),
            *_key_facts(content),
            *_machine_facts(run_dir),
        ),
        text=text,
    )


def _steps(content: dict[Any, Any]) -> Iterator[tuple[str, str, str]]:
    """List (stage, method, settings) of every method of the recipe."""
    for section in _SECTIONS[:-1]:
        value = content.get(section)
        if section == "refine" and isinstance(value, dict):
            value = value.get("steps")
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str):
                yield section, entry, ""
            elif isinstance(entry, dict) and entry:
                yield section, str(entry.get("name") or "default rule"), _settings(entry)


def _settings(entry: dict[Any, Any]) -> str:
    """Write the plain settings of a method as one line; groups of settings stay in the file."""
    plain = [
        f"{key} {_short(value)}"
        for key, value in entry.items()
        if key != "name" and not isinstance(value, dict) and value is not None
    ]
    return ", ".join(plain)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return str(value)


def _supervision(value: Any) -> tuple[str, ...]:
    """Split ``I+SAM`` or a list into parts and put them into words."""
    parts = value if isinstance(value, list) else str(value or "").split("+")
    cleaned = (str(part).strip().lstrip("+") for part in parts)
    return tuple(_SUPERVISION_WORDS.get(part, part) for part in cleaned if part)


def _pretraining(content: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """Find every network of the recipe and the weights that it started from."""
    for where, node in _mappings("", content):
        if "weights" in node:
            name = next(
                (str(node[key]) for key in ("backbone", "encoder", "network") if node.get(key)), ""
            )
            weights = str(node["weights"])
            started = "from scratch" if weights in ("none", "None") else weights
            yield f"{where}: {name}" if name else where, started


def _mappings(where: str, node: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    if isinstance(node, dict):
        yield where, node
        for key, value in node.items():
            yield from _mappings(f"{where}.{key}" if where else str(key), value)
    elif isinstance(node, list):
        for value in node:
            yield from _mappings(where, value)


def _tuned_on_masks(run_dir: Path, content: dict[Any, Any]) -> Iterator[str]:
    """Find what ground-truth masks chose, or were allowed to choose."""
    stages = sorted(path.parent for path in run_dir.rglob(STAGE_FILE))
    tuned = [folder for folder in stages if _says_tuned(read_object(folder / STAGE_FILE))]
    for folder in tuned:
        yield folder.relative_to(run_dir).as_posix()
    if _says_tuned(content):
        yield "settings of the recipe"
    painted = num_painted(run_dir)
    if painted:
        images = "1 image" if painted == 1 else f"{painted} images"
        yield f"painted masks of {images} were used as labels (--use-masks)"
    elif not tuned and read_object(run_dir / "settings.json").get("use_masks") is True:
        yield "masks were allowed to tune (--use-masks), no stage says that it used them"


def num_painted(run_dir: Path) -> int:
    """Count the images whose label was a mask that a person painted."""
    manifest = _last_lines(run_dir / "localize" / MANIFEST_FILE)
    return sum(kind == "masks" for kind in led_by(manifest).values())


def _says_tuned(content: dict[Any, Any]) -> bool:
    nodes = (node for _, node in _mappings("", content))
    return any(node.get(key) is True for node in nodes for key in _MASK_KEYS)


def _comment_facts(text: str) -> Iterator[tuple[str, str]]:
    """Read the comment lines at the head of the file: versions, or ``# what: value``."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        what, colon, value = line.lstrip("# ").partition(": ")
        if colon:
            yield what.strip(), value.strip()
        elif what.strip():
            yield "software", what.strip()


def _key_facts(content: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """Read keys that are no settings: versions, machine, data fingerprint."""
    for key, value in content.items():
        if key in _OWN_KEYS or value is None or value == "":
            continue
        if isinstance(value, dict):
            yield from ((f"{key} {name}", _short(item)) for name, item in value.items())
        else:
            yield str(key), _short(value)


def _machine_facts(run_dir: Path) -> Iterator[tuple[str, str]]:
    for key, value in read_object(run_dir / "machine.json").items():
        if value is not None:
            yield str(key).replace("_", " "), _short(value)


def read_stage_runs(run_dir: Path) -> tuple[tuple[StageRun, ...], tuple[Failure, ...]]:
    """Read how every stage went from its ``stage.json`` and ``manifest.jsonl``.

    Args:
        run_dir: The run folder.

    Returns:
        The stages in the order of the chain, and the images that failed in them. What a training
        keeps for itself between its rounds is no stage, but images may fail there, too.
    """
    folders = {path.parent for name in (STAGE_FILE, MANIFEST_FILE) for path in run_dir.rglob(name)}
    names = sorted((f.relative_to(run_dir).as_posix() for f in folders), key=_chain_position)
    runs, failures = [], []
    for name in names:
        state = read_object(run_dir / name / STAGE_FILE)
        manifest = _last_lines(run_dir / name / MANIFEST_FILE)
        failed = {key: line for key, line in manifest.items() if line.get("status") == "failed"}
        failures += [Failure(name, key, _reason(line)) for key, line in failed.items()]
        if _TRAINING in name.split("/"):
            continue
        runs.append(
            StageRun(
                name=name,
                state=str(state.get("progress") or ""),
                seconds=_seconds(state, manifest),
                finished=_finished(state),
                num_done=len(manifest) - len(failed),
                num_failed=len(failed),
            )
        )
    return tuple(runs), tuple(failures)


def _chain_position(name: str) -> tuple[int, str]:
    first = name.partition("/")[0]
    return (STAGE_ORDER.index(first) if first in STAGE_ORDER else len(STAGE_ORDER), name)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; a file that is missing or torn is an empty one."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _last_lines(path: Path) -> dict[str, dict[str, Any]]:
    """Keep the last line of each image: a later run may have mended it."""
    lines = read_jsonl(path)
    return {str(line["id"]): line for line in lines if isinstance(line, dict) and "id" in line}


def _reason(line: dict[str, Any]) -> str:
    return str(line.get("reason") or "no reason was recorded")


def _seconds(state: dict[str, Any], manifest: dict[str, dict[str, Any]]) -> float | None:
    """Take the stage's own time, else the sum over its images."""
    total: Any = state.get("seconds")
    if _is_number(total):
        return float(total)
    times = [line["seconds"] for line in manifest.values() if _is_number(line.get("seconds"))]
    return float(sum(times)) if times else None


def _finished(state: dict[str, Any]) -> float | None:
    time: Any = state.get("time")
    return float(time) if state.get("progress") == "done" and _is_number(time) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
