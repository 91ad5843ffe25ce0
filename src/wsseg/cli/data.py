"""The verbs about data: check, convert, split, simulate, scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsseg import console
from wsseg.cli import app
from wsseg.cli._command import command

data_app = typer.Typer(
    help="Find what is wrong with data, split it, simulate weak labels, make synthetic scenes.",
    no_args_is_help=True,
)
app.add_typer(data_app, name="data")

Data = Annotated[Path, typer.Argument(metavar="DATA", help="Folder with images and labels.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


@data_app.command()
@command
def check(
    data: Data,
    deep: Annotated[
        bool,
        typer.Option(help="Decode every image and mask; without, only names, tables and headers."),
    ] = True,
) -> None:
    """List every problem of a data set with its file and remedy; exit code 3 on errors."""
    from wsseg.data.check import check_dataset

    found = check_dataset(data, deep=deep)
    console.result(found.text(), found.as_dict())
    if found.num_errors:
        raise typer.Exit(3)


@data_app.command()
@command
def convert(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    to: Annotated[
        str,
        typer.Option("--to", help="Target: csv, coco, yolo, voc, labelme, cvat or label-studio."),
    ] = "csv",
    data_format: Annotated[
        str | None, typer.Option("--format", help="Format of DATA, where several fit.")
    ] = None,
) -> None:
    """Write a data set of any readable format in another one."""
    from wsseg.data.convert import convert_dataset

    written = convert_dataset(data, out, to=to, format=data_format)
    console.result(written.text(), written.as_dict())


@data_app.command()
@command
def split(
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; labels.csv of DATA when missing.")
    ] = None,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the val split.")] = 0.2,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the test split.")] = 0.0,
    seed: Seed = 0,
) -> None:
    """Split a data set so that every class has its share in every split; groups stay together."""
    from wsseg.data.split import split_folder

    written = split_folder(data, out, fractions={"val": val, "test": test}, seed=seed)
    console.result(written.text(), written.as_dict())


@data_app.command()
@command
def simulate(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    kinds: Annotated[
        str, typer.Option(help="Weak labels to make: any of tags,boxes,points,scribbles.")
    ] = "tags,boxes,points,scribbles",
    seed: Seed = 0,
) -> None:
    """Make tags, boxes, points and scribbles from ground-truth masks, for experiments."""
    from wsseg.data.simulate import simulate_folder

    wanted = tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    written = simulate_folder(data, out, kinds=wanted, seed=seed)
    console.result(written.text(), written.as_dict())


@data_app.command()
@command
def scenes(
    family: Annotated[
        str, typer.Argument(help="parts, graded, cooccurrence, instances or defects.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    train: Annotated[int, typer.Option(min=1, help="Images of the train split.")] = 200,
    val: Annotated[int, typer.Option(min=0, help="Images of the val split.")] = 60,
    size: Annotated[int, typer.Option(min=48, help="Side of the square images, in pixels.")] = 128,
    seed: Seed = 0,
) -> None:
    """Draw synthetic scenes with exact masks, made so that known failures of CAM occur."""
    from wsseg.data.scenes import make_dataset

    make_dataset(family, out, num_train=train, num_val=val, seed=seed, size=(size, size))
    console.result(
        f"Wrote {train} train and {val} val images to {out}\nNext: wsseg run {out}",
        {"out": str(out), "train": train, "val": val},
    )
