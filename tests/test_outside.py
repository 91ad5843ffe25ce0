from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from wsseg import outside, registry
from wsseg.context import RunContext
from wsseg.cues.protocol import CueConfig, CueInputs
from wsseg.cues.source import open_cue
from wsseg.data.dataset import Dataset
from wsseg.errors import DataError
from wsseg.outside import MISSING, RECORD_FILE, NetworkPath, Outside, file_mark, outside_marks
from wsseg.pipeline import again, run
from wsseg.plan import plan
from wsseg.recipe import Recipe, load_recipe
from wsseg.refine.stage import refine_step
from wsseg.rundir import RunDir, StageDir
from wsseg.type_text import config_classes


def copied_anew(path: Path) -> None:
    """Give all files below a path another time."""
    for file in [path, *path.rglob("*")]:
        os.utime(file, ns=(1, 1))


def test_content_counts_and_not_the_time_of_a_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"weights")
    mark = file_mark(path)
    os.utime(path, ns=(1, 1))
    assert file_mark(path) == mark
    path.write_bytes(b"Weights")
    assert file_mark(path) != mark
    path.write_bytes(b"weights")
    assert file_mark(path) == mark


def test_of_large_files_size_and_ends_count(tmp_path, monkeypatch):
    monkeypatch.setattr(outside, "WHOLE_BYTES", 20)
    monkeypatch.setattr(outside, "END_BYTES", 8)

    def mark(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return file_mark(tmp_path / name)

    whole = b"HHHHHHHH..........TTTTTTTT"
    same = mark("a", whole)
    assert mark("b", whole[:12] + b"x" + whole[13:]) == same
    assert mark("c", b"x" + whole[1:]) != same
    assert mark("d", whole[:-1] + b"x") != same
    assert mark("e", whole[:12] + b"." + whole[12:]) != same
    # Up to the limit all of it counts.
    assert mark("f", b"a" * 9 + b"b" + b"a" * 10) != mark("g", b"a" * 20)


def write_maps(folder: Path, values: dict[str, int]) -> None:
    for name, value in values.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


@pytest.fixture
def dataset(make_dataset) -> Dataset:
    return make_dataset({"a": {"tags": {1}}, "sub/b": {"tags": {2}}, "ok": {"tags": set()}})


def test_of_a_folder_of_maps_those_of_the_images_count(dataset, tmp_path):
    settings = registry.settings("cues", {"name": "folder", "path": str(tmp_path / "maps")})
    key = f"maps:{tmp_path / 'maps'}"
    assert outside_marks(settings, dataset) == {key: MISSING}
    write_maps(tmp_path / "maps", {"a": 10, "sub/b": 20})
    marks = outside_marks(settings, dataset)
    write_maps(tmp_path / "maps", {"other": 30})
    copied_anew(tmp_path / "maps")
    assert outside_marks(settings, dataset) == marks
    write_maps(tmp_path / "maps", {"sub/b": 21})
    assert outside_marks(settings, dataset) != marks
    write_maps(tmp_path / "maps", {"sub/b": 20, "ok": 0})
    assert outside_marks(settings, dataset) != marks
    assert outside_marks(settings) == {}


def test_of_a_network_weights_and_preparation_count_and_a_read_me_does_not(dataset, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors", "README.md"):
        (folder / name).write_text(name)
    settings = registry.settings("segments", {"name": "sam", "model": str(folder)})
    marks = outside_marks(settings, dataset)
    (folder / "README.md").write_text("other")
    assert outside_marks(settings, dataset) == marks
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        before = (folder / name).read_text()
        (folder / name).write_text("other")
        assert outside_marks(settings, dataset) != marks, name
        (folder / name).write_text(before)
    hub = registry.settings("segments", {"name": "sam", "model": "somebody/sam"})
    assert outside_marks(hub, dataset) == {}


def test_words_are_no_paths_even_where_a_file_has_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("none", "imagenet"):
        (tmp_path / word).write_text("x")
        assert (
            outside_marks(registry.settings("localizers", {"name": "cam", "weights": word})) == {}
        )


def test_settings_inside_of_settings_are_found(dataset, tmp_path):
    paths = {name: str(tmp_path / name) for name in ("segments", "boxes", "tags")}
    folder = {"name": "folder", "path": paths["segments"]}
    boxes = {"name": "box_prompts", "segments": {"name": "folder", "path": paths["boxes"]}}
    recipe = load_recipe(
        "mixed",
        [
            f"localize.tags.weights={paths['tags']}",
            f"localize.tags.regularisers=[{{name: s2c, segments: {folder}}}]",
            f"localize.boxes={boxes}",
        ],
    )
    assert outside_marks(recipe.localize, dataset) == {
        f"weights:{paths['tags']}": MISSING,
        f"maps:{paths['segments']}": MISSING,
        f"maps:{paths['boxes']}": MISSING,
    }


def every_class() -> list[type[BaseModel]]:
    groups: tuple[registry.Group, ...] = (
        "localizers", "refiners", "regularisers", "segmenters", "cues", "segments",
    )  # fmt: skip
    found: list[type[BaseModel]] = [Recipe]
    found += [registry.config_class(g, name) for g in groups for name in registry.table(g)]
    for cls in found:
        inner = [c for f in cls.model_fields.values() for c in config_classes(f.annotation)]
        found += [c for c in inner if c not in found]
    return found


def test_every_setting_that_takes_a_path_says_so_by_its_type():
    """Corrections have a fingerprint of their own; see `wsseg.pseudo.corrections`."""
    silent = []
    for cls in every_class():
        for name, field in cls.model_fields.items():
            text = field.description or ""
            is_path = re.search(r"\bpath of\b|[Ff]older (with|of)\b", text)
            types = (field.annotation, *field.metadata)
            if is_path and "str" in str(types) and name != "corrections":
                silent += [f"{cls.__name__}.{name}"] * (not any(outside._markers(types)))
    assert silent == []


CAM = ["localize.backbone=test_resnet", "localize.output_stride=8", "segment=null"]


def stale(dataset: Dataset, recipe: Recipe, folder: Path, change: Any) -> set[str]:
    """Name the stages whose fingerprint a change of files changes."""
    before = plan(RunDir(folder), dataset, recipe, False).all()
    change()
    after = plan(RunDir(folder), dataset, recipe, False).all()
    return {
        a.path.name for a, b in zip(after, before, strict=True) if a.fingerprint != b.fingerprint
    }


def test_stages_that_depend_on_replaced_files_are_done_again(dataset, tmp_path):
    maps, weights = tmp_path / "maps", tmp_path / "w.safetensors"
    write_maps(maps, {"a": 1, "sub/b": 2, "ok": 3})
    weights.write_bytes(b"first")
    out = tmp_path / "run"

    def maps_change() -> None:
        write_maps(maps, {"a": int(np.array(Image.open(maps / "a.png"))[0, 0]) + 1})

    later = {"masks", "segment", "predictions", "evaluate"}
    steps = f"refine.steps=[dense_crf, {{name: background_cue, cue_folder: {maps}}}]"
    refined = load_recipe("cam", [*CAM, steps])
    assert stale(dataset, refined, out, maps_change) == {"2_background_cue", *later}
    assert stale(dataset, refined, out, lambda: copied_anew(maps)) == set()
    all_after = {"localize", "1_background_constant", *later}
    one_step = "refine.steps=[background_constant]"
    segments = {"name": "s2c", "segments": {"name": "folder", "path": str(maps)}}
    learned = load_recipe("cam", [*CAM, one_step, f"localize.regularisers=[{segments}]"])
    assert stale(dataset, learned, out, maps_change) == all_after
    eps = load_recipe("eps", [*CAM, one_step, f"localize.cue={{name: folder, path: {maps}}}"])
    assert stale(dataset, eps, out, maps_change) == all_after
    started = load_recipe("cam", [*CAM, one_step, f"localize.weights={weights}"])
    assert stale(dataset, started, out, lambda: weights.write_bytes(b"other")) == all_after
    encoder = load_recipe("cam", [one_step, f"segment.weights={weights}"])
    found = stale(dataset, encoder, out, lambda: weights.write_bytes(b"third"))
    assert found == {"segment", "predictions", "evaluate"}


def test_a_recipe_without_files_outside_keeps_its_fingerprints(dataset, tmp_path):
    stages = plan(RunDir(tmp_path), dataset, load_recipe("cam", CAM), False)
    assert stages.outside == {}


def test_files_that_are_gone_keep_the_mark_that_the_run_recorded(dataset, tmp_path):
    maps = tmp_path / "maps"
    write_maps(maps, {"a": 1, "sub/b": 2, "ok": 3})
    steps = f"refine.steps=[{{name: background_cue, cue_folder: {maps}}}]"
    recipe = load_recipe("cam", [*CAM, steps])
    folder = tmp_path / "run"
    folder.mkdir()
    marks = plan(RunDir(folder), dataset, recipe, False).outside
    outside_text = f'{{"maps:{maps}": "{marks[f"maps:{maps}"]}"}}'
    assert stale(dataset, recipe, folder, lambda: shutil.rmtree(maps)) != set()
    write_maps(maps, {"a": 1, "sub/b": 2, "ok": 3})
    (folder / RECORD_FILE).write_text(outside_text)
    assert stale(dataset, recipe, folder, lambda: shutil.rmtree(maps)) == set()


class NetCue(CueConfig):
    """A cue that reads its network's file."""

    name: Literal["net"] = "net"
    model: NetworkPath = Field("", description="Folder of the network.")


def net_cue(image, *, config=NetCue(), context=None):
    level = float((Path(config.model) / "config.json").read_text())
    return np.full(image.shape[:2], level, np.float32)


def test_maps_of_a_replaced_network_are_made_anew(dataset, tmp_path, monkeypatch):
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda g, n: net_cue if n == "net" else load(g, n))
    net = tmp_path / "net"
    net.mkdir()
    inputs = CueInputs(dataset, tmp_path / "cues")
    for level in ("0.2", "0.8"):
        (net / "config.json").write_text(level)
        source = open_cue(NetCue(model=str(net)), inputs)
        source.prepare(dataset.samples)
        assert source.map(dataset.samples[0])[0, 0] == pytest.approx(float(level), abs=1 / 255)
    copied_anew(net)
    open_cue(NetCue(model=str(net)), inputs)
    assert len(list((tmp_path / "cues").iterdir())) == 2


def test_a_refiner_trains_again_from_other_first_weights(dataset, tmp_path, monkeypatch):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"first")
    config = registry.settings(
        "refiners", {"name": "affinity_net", "init": str(weights), "backbone": "test_resnet"}
    )
    seen = []

    class Stop(Exception):  # noqa: N818 - not an error
        pass

    def fit(_self, inputs, *, config):
        seen.append(inputs.fingerprint)
        raise Stop

    monkeypatch.setattr(type(registry.load("refiners", "affinity_net")), "fit", fit)
    before = StageDir(tmp_path / "localize", "f")
    for content in (b"first", b"first", b"other", None):
        known = outside_marks(config) if content is None else {}
        weights.unlink() if content is None else weights.write_bytes(content)
        context = RunContext(outside=known)
        with pytest.raises(Stop):
            refine_step(dataset, config, before, StageDir(tmp_path / "r", "g"), context)
    assert seen[0] == seen[1]
    assert seen[2] != seen[1]
    assert seen[3] == seen[2]


def test_a_run_does_again_what_used_the_replaced_maps(make_dataset, tmp_path):
    data = make_dataset({n: {"tags": {1 + n.count("b")}, "size": (32, 32)} for n in ("a", "b")})
    maps = tmp_path / "maps"
    write_maps(maps, {"a": 0, "b": 0})
    recipe = load_recipe(
        "cam",
        [
            *CAM,
            "localize.training.epochs=1",
            "localize.augment.crop_px=32",
            "localize.inference.scales=[1.0]",
            "evaluate.boundary=false",
            f"refine.steps=[{{name: background_cue, cue_folder: {maps}}}]",
        ],
    )
    out = tmp_path / "run"

    def state(path: str) -> int:
        return (out / path).stat().st_mtime_ns

    run(data, recipe=recipe, out=out)
    trained, refined = state("localize/stage.json"), state("refine/1_background_cue/stage.json")
    copied_anew(maps)
    run(data, recipe=recipe, out=out)
    assert state("refine/1_background_cue/stage.json") == refined
    write_maps(maps, {"a": 255, "b": 255})
    again(out, "refine")
    assert state("refine/1_background_cue/stage.json") != refined
    assert state("localize/stage.json") == trained
    run(data, recipe=recipe, out=out)
    shutil.rmtree(maps)
    run(data, recipe=recipe, out=out)
    with pytest.raises(DataError, match="does not exist"):
        again(out, "refine", force=True)


def test_markers_are_seen_in_optional_types():
    class Some(BaseModel):
        path: NetworkPath | None = None

    field = Some.model_fields["path"]
    assert list(outside._markers((field.annotation, *field.metadata))) == [Outside("network")]
