"""The documentation tells the truth: snippets run, commands parse, keys and links exist.

Conventions of a fenced block, by the words behind its opening fence:

* ``python run``: is executed. All such blocks of a page share one namespace and one folder, from
  top to bottom, like the cells of a notebook. The folder holds ``DATA``, a small data set in the
  layout of ``labels.csv``, ``NEW_IMAGES``, a folder of images, and ``new.png``. Trainings are cut
  down to one epoch on small crops. ``slow`` behind it marks the page as a long test.
* ``LANGUAGE file=NAME``: is written to that file of the folder before anything runs. Entry points
  in a ``pyproject.toml`` are registered as if the folder were installed.
* ``yaml recipe``: is laid over the recipe ``cam`` and validated.
* ``sh``: every ``wsseg`` command in it must parse.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = (
    "localize.training.epochs=1",
    "localize.training.batch_size=4",
    "localize.training.num_workers=0",
    "localize.augment.crop_px=48",
    "localize.inference.scales=[1.0]",
    "segment.training.epochs=1",
    "segment.training.batch_size=4",
    "segment.training.num_workers=0",
    "segment.augment.crop_px=48",
)
GLOBAL_FLAGS = {"--json", "--quiet", "--debug"}
STAGES = "localize|refine|pseudo|segment|evaluate"


@dataclass(frozen=True)
class Block:
    """One fenced block: the words behind the fence, its text, and its first line."""

    info: tuple[str, ...]
    text: str
    line: int

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def file(self) -> str | None:
        return next((w.removeprefix("file=") for w in self.info if w.startswith("file=")), None)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found, start, info, lines = [], 0, (), []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(info, "\n".join(lines) + "\n", start + 1))
            start = 0
        else:
            start, info, lines = number, tuple(line.strip().strip("`").split()), []
    assert not start, f"{name_of(page)} line {start}: the block is not closed"
    return found


def prose(page: Path) -> str:
    return re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.M | re.S)


def inline_code(page: Path) -> list[str]:
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(page))]


def commands(text: str) -> Iterator[list[str]]:
    """Find the words behind ``wsseg`` in shell lines, whatever stands before it."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for part in re.split(r"&&|\|\||;|(?<=\s)\|(?=\s)", line):
            words = shlex.split(part, comments=True)
            if "wsseg" in words:
                yield words[words.index("wsseg") + 1 :]


@pytest.fixture(scope="session")
def command_line():
    import typer

    from wsseg import cli
    from wsseg.cli import data, export, recipes, run  # noqa: F401 - they register their verbs

    return typer.main.get_command(cli.app)


def verb(command: Any, words: list[str]) -> tuple[Any, list[str]]:
    """Walk from group to verb; returns the verb and the words that are left for it."""
    words = [word for word in words if word not in GLOBAL_FLAGS]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    known = {text for p in command.params for text in (*p.opts, *p.secondary_opts)}
    return known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_in_a_shell_block_parses(page, command_line):
    for block in blocks(page):
        if block.language != "sh":
            continue
        for words in commands(block.text):
            command, rest = verb(command_line, words)
            if {"--help", "--version"} & set(rest):
                continue
            if hasattr(command, "commands"):
                assert not rest, f"{name_of(page)}: wsseg {shlex.join(words)}: no such verb"
                continue
            try:
                command.make_context("wsseg", list(rest))
            except Exception as error:
                pytest.fail(f"{name_of(page)}: wsseg {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_verb_and_option_named_in_a_sentence_exists(page, command_line):
    for text in inline_code(page):
        if not text.startswith("wsseg "):
            continue
        words = text.split()[1:]
        command, rest = verb(command_line, words)
        assert command is not command_line or not rest or rest[0].startswith("-"), text
        named = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert named <= options_of(command) | GLOBAL_FLAGS, text


def overrides_in(page: Path) -> Iterator[tuple[str | None, list[str]]]:
    """Find recipe and ``key=value`` texts of every command, and those in sentences."""
    lines = [words for b in blocks(page) if b.language == "sh" for words in commands(b.text)]
    lines += [text.split()[1:] for text in inline_code(page) if text.startswith("wsseg ")]
    for words in lines:
        pairs = list(pairwise(words))
        recipe = next((after for word, after in pairs if word == "--recipe"), None)
        yield recipe, [after for word, after in pairs if word == "--set"]
    for text in inline_code(page):
        if text.startswith("--set "):
            yield None, shlex.split(text)[1::2]
        elif re.fullmatch(rf"(?:(?:{STAGES})\.[\w.]+|seed|max_side_px)=\S+", text):
            yield None, [text]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_a_page_tells_to_set_is_valid_in_some_recipe(page):
    from wsseg.errors import RecipeError
    from wsseg.recipe import load_recipe, shipped

    for recipe, texts in overrides_in(page):
        # Words in capitals stand for what the reader fills in.
        wanted = [text for text in texts if not re.search(r"[A-Z]{3}", text)]
        faults = []
        for name in [recipe] if recipe in shipped() else shipped():
            try:
                load_recipe(name, wanted)
                break
            except RecipeError as error:
                faults.append(str(error))
        else:
            pytest.fail(f"{name_of(page)}: {wanted}:\n" + "\n".join(faults))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_key_named_in_a_sentence_exists(page):
    from wsseg.recipe import explain

    for text in inline_code(page):
        if re.fullmatch(rf"(?:{STAGES})(?:\.[a-z][a-z0-9_]*)+", text):
            assert explain(text), f"{name_of(page)}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_on_a_page_is_valid(page):
    from wsseg.recipe import shipped, validate

    for block in blocks(page):
        if block.language == "yaml":
            content = yaml.safe_load(block.text)
            if "recipe" in block.info:
                validate(laid_over(shipped()["cam"], content))


def laid_over(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    return base | {key: laid_over(base.get(key), value) for key, value in top.items()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: the link {target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: no heading for {target}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.M)
    return {anchor_of(title) for title in titles}


def anchor_of(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


EFFECT = "## Measured effect"
MEASURED = re.compile(
    r"\]\(\.\./benchmarks\.md#([\w-]+)\)(?:,\s+rows?\s+((?:\*[^*]+\*(?:,\s+|\s+and\s+)?)+))?"
)
WITH_EFFECT = [page for page in PAGES if EFFECT in page.read_text("utf-8")]


def section(page: Path, heading: str) -> str:
    """The text below a heading up to the next one of the same depth."""
    _, _, below = page.read_text("utf-8").partition(f"{heading}\n")
    return re.split(rf"^{heading.split(maxsplit=1)[0]} ", below, maxsplit=1, flags=re.M)[0]


def cells_below(anchor: str) -> set[str]:
    """What stands in the tables of a section of the benchmarks, without marks of code."""
    page = ROOT / "docs" / "benchmarks.md"
    titles = re.findall(r"^## .+$", page.read_text("utf-8"), flags=re.M)
    (title,) = [
        t for t in titles if re.sub(r"[^\w\- ]", "", t[3:].lower()).replace(" ", "-") == anchor
    ]
    rows = re.findall(r"^\|(.+)\|$", section(page, title), flags=re.M)
    return {cell.strip().replace("`", "") for row in rows for cell in row.split("|")}


@pytest.mark.parametrize("page", WITH_EFFECT, ids=name_of)
def test_a_page_names_the_rows_of_its_measured_effect_or_says_that_there_are_none(page):
    text = section(page, EFFECT)
    text = " ".join(text.split())
    named = [(anchor, re.findall(r"\*([^*]+)\*", rows)) for anchor, rows in MEASURED.findall(text)]
    assert text.count("benchmarks.md") == len(named), f"{name_of(page)}: name the section"
    assert "not measured yet" in text.lower() or any(rows for _, rows in named)
    missing = [row for anchor, rows in named for row in rows if row not in cells_below(anchor)]
    assert missing == []


def test_the_pages_hold_what_is_checked_here():
    languages = [block.language for page in PAGES for block in blocks(page)]
    assert all(languages.count(language) >= 10 for language in ("sh", "python", "yaml"))
    assert sum(len(texts) for page in PAGES for _, texts in overrides_in(page)) >= 50
    assert len(list(runnable())) >= 2


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_block_is_python(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{name_of(page)} line {block.line}", "exec")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    from wsseg.data.scenes import make_dataset

    folder = tmp_path_factory.mktemp("docs")
    make_dataset("defects", folder / "DATA", num_train=12, num_val=4, seed=0, size=(48, 48))
    (folder / "NEW_IMAGES").mkdir()
    pictures = sorted((folder / "DATA" / "images").iterdir())[-2:]
    for picture in pictures:
        shutil.copy(picture, folder / "NEW_IMAGES")
    shutil.copy(pictures[0], folder / "new.png")
    return folder


def register_entry_points(folder: Path) -> None:
    """Do what ``pip install`` does with the entry points of a project."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def notebook(small_data, tmp_path, monkeypatch):
    """A folder to run a page in, with short trainings; leaves no module or method behind."""
    from wsseg import pipeline, registry

    folder = tmp_path / "page"
    shutil.copytree(small_data, folder)
    full = pipeline.run

    def short_run(data: Any, *, overrides: Any = (), **rest: Any) -> Any:
        return full(data, overrides=[*overrides, *SMALL], **rest)

    monkeypatch.setattr(pipeline, "run", short_run)
    monkeypatch.setattr("wsseg.run", short_run, raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    modules = set(sys.modules)
    registry.table.cache_clear()
    yield folder
    registry.table.cache_clear()
    for name in set(sys.modules) - modules:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
            del sys.modules[name]


def runnable() -> Iterator[Any]:
    for page in PAGES:
        words = {word for block in blocks(page) for word in block.info}
        if "run" in words:
            marks = [pytest.mark.slow] if "slow" in words else []
            yield pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", list(runnable()))
def test_the_snippets_of_a_page_run_from_top_to_bottom(page, notebook):
    for block in blocks(page):
        if block.file is not None:
            (notebook / block.file).write_text(block.text)
    if (notebook / "pyproject.toml").exists():
        register_entry_points(notebook)
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page):
        if "run" in block.info:
            # Line numbers of a traceback are those of the page.
            text = "\n" * (block.line - 1) + block.text
            exec(compile(text, name_of(page), "exec"), namespace)


def test_no_page_names_a_place_on_one_machine():
    for page in PAGES:
        found = re.findall(r"(?<![\w.])/(?:home|tmp|work|root|mnt|Users)/\S*", page.read_text())
        assert not found, f"{name_of(page)}: {found}"
