"""Examples are commands that work: those of every help text and of every page are parsed by the command line itself."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from vireid.cli import app

ROOT = Path(__file__).parent.parent
VIREID = typer.main.get_command(app)
Command = typer.core.TyperCommand | typer.core.TyperGroup


def commands(command: Command, words: str = "vireid") -> Iterator[tuple[str, str]]:
    """The words and the help text of every command."""
    if isinstance(command, typer.core.TyperGroup):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{words} {name}")
    else:
        yield words, command.help or ""


def parse(line: str) -> None:
    """Parse a command as the command line does, without running it."""
    command, words = VIREID, shlex.split(line, comments=True)[1:]
    while isinstance(command, typer.core.TyperGroup):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


@pytest.mark.parametrize(("command", "text"), list(commands(VIREID)))
def test_every_help_text_shows_the_command_in_an_example(command, text):
    _, _, shown = text.partition("Example")
    examples = [" ".join(example.split()) for example in re.findall(r"`(vireid [^`]+)`", shown)]
    assert any(example.startswith(command) for example in examples)
    for example in examples:
        parse(example)


def pages() -> Iterator[tuple[str, str]]:
    """Every command in a code block of a page, its continued lines joined."""
    for page in sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")]):
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip().startswith("vireid "):
                    yield page.relative_to(ROOT).as_posix(), line.strip().removesuffix(" &")


@pytest.mark.parametrize(("page", "line"), list(pages()))
def test_every_command_of_the_pages_can_be_given(page, line):
    parse(line)


def test_every_test_that_a_page_names_exists():
    text = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/**/*.md"))
    named = set(re.findall(r"`(?:tests/)?(test_\w+\.py)::(test_\w+)", text))
    assert named
    assert not [n for n in named if f"\ndef {n[1]}(" not in (ROOT / "tests" / n[0]).read_text(encoding="utf-8")]
