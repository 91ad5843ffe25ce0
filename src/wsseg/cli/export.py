"""The verb that hands results to other tools: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsseg import console
from wsseg.cli import app
from wsseg.cli._command import command


@app.command()
@command
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="onnx, coco, coco-instances, voc, labelme, cvat, label-studio or yolo."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="File or folder to write to.")] = None,
    masks: Annotated[
        str,
        typer.Option(help="Which masks the annotations are made of: pseudo or predicted."),
    ] = "pseudo",
) -> None:
    """Write a run's model as ONNX, or its masks for an annotation tool to open and correct."""
    from wsseg.export.run import export_run

    written = export_run(run_folder, to, out=out, masks=masks)
    console.result(written.text(), written.as_dict())
