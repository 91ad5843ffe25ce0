"""The verbs that explain: recipes and doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from wsseg import console
from wsseg.cli import app
from wsseg.cli._command import command

recipes_app = typer.Typer(help="What recipes exist, and what every key means.")
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback(invoke_without_command=True)
@command
def recipes(context: typer.Context) -> None:
    """List the recipes: name, what it does, source, extra supervision."""
    if context.invoked_subcommand is not None:
        return
    from wsseg.recipe import shipped

    found = shipped()
    lines = []
    for name, content in found.items():
        lines.append(f"{name:<12} [{content.get('supervision', 'I')}] {content.get('title', '')}")
        if content.get("paper"):
            lines.append(f"{'':<12} {content['paper']}")
    lines.append("`wsseg recipes show NAME` prints one, `wsseg recipes explain KEY` tells a key.")
    keys = ("title", "paper", "supervision")
    console.result(
        "\n".join(lines),
        {name: {key: content.get(key) for key in keys} for name, content in found.items()},
    )


@recipes_app.command()
@command
def show(name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")]) -> None:
    """Print a recipe's YAML, to copy and change."""
    from wsseg.recipe import shipped, shipped_text

    text = shipped_text(name)
    console.result(text.rstrip(), shipped()[name])


@recipes_app.command()
@command
def explain(
    key: Annotated[str, typer.Argument(help="Dotted key, such as segment.training.")] = "",
) -> None:
    """Print every field below a key with type, range, default and meaning."""
    from wsseg.recipe import explain as explain_key

    found = explain_key(key)
    console.result("\n".join(info.text() for info in found), [info.as_dict() for info in found])


@app.command()
@command
def doctor() -> None:
    """Show versions, device, extras and cached weights, and say what is missing."""
    from wsseg.doctor import examine

    facts = examine()
    console.result(facts.text(), facts.as_dict())
