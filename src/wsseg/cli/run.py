"""The verbs that make and judge masks: demo, run, the single stages, predict, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsseg import console
from wsseg.cli import app
from wsseg.cli._command import command
from wsseg.errors import DataError

if TYPE_CHECKING:
    from wsseg.finished import Finished
    from wsseg.predict import Predicted

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key, such as segment.training.epochs=30."
    ),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder to write to.")]
UseMasks = Annotated[
    bool,
    typer.Option(
        "--use-masks",
        help="Let ground-truth masks tune thresholds and choose checkpoints; every table says so.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Foreground class names in the order of their ids."),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="Format of DATA, where several fit."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Force = Annotated[bool, typer.Option("--force", help="Do the stage again from nothing.")]


@app.command()
@command
def demo(
    out: Out = None,
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the training.")] = 0,
) -> None:
    """Do the whole job on built-in images of metal defects, in under three minutes."""
    from wsseg.demo import demo as run_demo

    _show(run_demo(out or Path("runs/demo"), seed=seed))


@app.command()
@command
def run(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images and labels.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Name (`wsseg recipes`) or YAML file of a recipe."),
    ] = None,
    overrides: Overrides = None,
    out: Out = None,
    use_masks: UseMasks = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at any error in the data.")
    ] = False,
    data_format: Format = None,
    classes: Classes = None,
) -> None:
    """Turn weak labels into masks, a segmenter and a report. Run it again to continue."""
    from wsseg.pipeline import run as run_pipeline

    finished = run_pipeline(
        data,
        recipe=recipe,
        overrides=overrides or (),
        out=out,
        use_masks=use_masks,
        strict=strict,
        classes=_names(classes),
        format=data_format,
    )
    _show(finished)


def _names(text: str | None) -> tuple[str, ...] | None:
    """Split "a, b" into names; None where none is given."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip()) or None


def _show(finished: Finished | Predicted) -> None:
    """Print what came out; images that failed give the exit code of bad data."""
    console.result(finished.text(), finished.as_dict())
    if finished.failures:
        raise typer.Exit(DataError.exit_code)


def _again(stage: str, run_folder: Path, overrides: list[str] | None, force: bool) -> None:
    from wsseg.pipeline import again

    _show(again(run_folder, stage, overrides=overrides or (), force=force))


@app.command()
@command
def localize(run_folder: RunFolder, overrides: Overrides = None, force: Force = False) -> None:
    """Train the localizer of a run and write its maps again."""
    _again("localize", run_folder, overrides, force)


@app.command()
@command
def refine(run_folder: RunFolder, overrides: Overrides = None, force: Force = False) -> None:
    """Refine the maps of a run again."""
    _again("refine", run_folder, overrides, force)


@app.command()
@command
def pseudo(run_folder: RunFolder, overrides: Overrides = None, force: Force = False) -> None:
    """Turn the refined maps of a run into pseudo masks again."""
    _again("pseudo", run_folder, overrides, force)


@app.command()
@command
def segment(run_folder: RunFolder, overrides: Overrides = None, force: Force = False) -> None:
    """Train the segmenter of a run on its pseudo masks again."""
    _again("segment", run_folder, overrides, force)


@app.command()
@command
def evaluate(
    predicted: Annotated[
        Path, typer.Argument(metavar="RUN|PRED", help="A run, or a folder of index PNGs.")
    ],
    truth: Annotated[
        Path | None, typer.Argument(metavar="GT", help="Folder of ground-truth index PNGs.")
    ] = None,
    classes: Classes = None,
) -> None:
    """Score every stage of a run, or one folder of PNG masks against another."""
    if truth is None:
        _again("evaluate", predicted, None, force=True)
        return
    from wsseg.data.labels import ClassList
    from wsseg.evaluate.folders import evaluate_folders
    from wsseg.evaluate.table import metrics_text

    names = _names(classes)
    metrics = evaluate_folders(predicted, truth, ClassList(names) if names else None)
    console.result(metrics_text(metrics), metrics)


@app.command()
@command
def report(run_folder: RunFolder) -> None:
    """Write the HTML report of a run again."""
    from wsseg.report.render import build_report

    path = build_report(run_folder)
    console.result(f"Report: {path}", {"report": str(path)})


@app.command()
@command
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run, a model bundle or an ONNX file.")
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="An image or a folder.")],
    out: Out = None,
    overlay: Annotated[bool, typer.Option(help="Write overlays beside the masks.")] = True,
    coco: Annotated[bool, typer.Option(help="Write one COCO JSON of all masks.")] = False,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Data set with boxes of the images, for bb_unet."),
    ] = None,
    data_format: Format = None,
) -> None:
    """Segment new images with a trained model: palette PNG masks, overlays, COCO."""
    from wsseg.predict import predict_folder

    target = out or Path("predictions")
    predicted = predict_folder(
        model, images, target, overlay=overlay, coco=coco, labels=labels, format=data_format
    )
    _show(predicted)


@app.command()
@command
def compare(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images and labels.")],
    recipes: Annotated[str, typer.Option(help="Recipes to compare: names or files, a,b,c.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs per recipe, with seeds 0, 1, 2, ...")] = 1,
    overrides: Overrides = None,
    out: Out = None,
    use_masks: UseMasks = False,
) -> None:
    """Run several recipes on the same data: a table and a plot, mean ± deviation over seeds."""
    from wsseg.compare import compare as run_compare

    names = [name.strip() for name in recipes.split(",") if name.strip()]
    table: Any = run_compare(
        data,
        names,
        num_seeds=seeds,
        overrides=overrides or (),
        out=out or Path("runs/compare"),
        use_masks=use_masks,
    )
    console.result(table.text(), table.as_dict())
