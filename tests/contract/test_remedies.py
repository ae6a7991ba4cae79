"""Commands named in messages, README and docs exist, with the options that are named."""

import ast
import re

import pytest
from dvc.cli.parser import get_main_parser
from stages import ROOT, load_all_stages
from typer.main import get_command

from histofuse.cli import app

SOURCES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")]
DOCS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
# What may come before a command in a sentence, and its own words.
NAMED = re.compile(
    r"(?<![\w/.@-])(histofuse|make|dvc) ((?:[a-z][\w-]*|--[a-z][\w-]*)(?: [\w@.=/…-]+)*)"
)
# Verbs of sentences that begin like commands.
PROSE = {"histofuse": {"is", "of", "on", "the", "in", "and", "needs"}, "dvc": {"does", "is"}}


def read_strings(path):
    """Read the texts of a module, without docstrings; f-strings with … for what is put in."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
        ):
            yield node.value


def find_commands():
    texts = [(p, text) for p in SOURCES for text in read_strings(p)]
    for path in DOCS:
        code = re.findall(r"`([^`\n]+)`|^ *((?:histofuse|make|dvc) .*)$", path.read_text(), re.M)
        texts += [(path, text) for parts in code for text in parts]
    for path, text in texts:
        for tool, words in NAMED.findall(text):
            first, *others = (word.rstrip(".,") for word in words.split())
            if first not in PROSE.get(tool, set()):
                yield tool, first, tuple(others), path.name


COMMANDS = sorted(set(find_commands()))
TARGETS = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))
SUBCOMMANDS = get_command(app).commands
DVC = get_main_parser()._subparsers._group_actions[0].choices
STAGES = {stage.name for stage in load_all_stages()}


def test_commands_are_found():
    assert {"histofuse", "make", "dvc"} == {tool for tool, *_ in COMMANDS}
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    ("tool", "first", "others", "where"), COMMANDS, ids=[" ".join(map(str, c)) for c in COMMANDS]
)
def test_command_exists(tool, first, others, where):
    if tool == "make":
        assert first in TARGETS, where
    elif tool == "dvc":
        assert first in DVC, where
        named = [word.partition("@")[0] for word in others if "_" in word or "@" in word]
        assert first != "repro" or set(named) <= STAGES, where
    else:
        assert first in {*SUBCOMMANDS, "--version", "--help"}, where
        command = SUBCOMMANDS.get(first)
        if hasattr(command, "commands") and others:
            command = command.commands.get(others[0])
            assert command, where
        known = {name for param in command.params for name in param.opts} if command else set()
        assert {word for word in others if word.startswith("--")} <= known, where
