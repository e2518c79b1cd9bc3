"""Every command and every python block of the documentation is one that exists."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from survey.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")])
_FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Lines of code blocks that start with 'survey', and `survey ...` inside of sentences that names a command."""
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    lines += [line.strip().removeprefix("$ ") for item in _FENCE.finditer(text) for line in item["body"].splitlines()]
    prose = "\n".join(line for line in _FENCE.sub("", text).splitlines() if not line.startswith("    "))
    lines += [" ".join(item.split()) for item in re.findall(r"`(survey [^`]+)`", prose)]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("survey ")]


FOUND = [(page, line) for page in PAGES for line in commands(page.read_text())]
BLOCKS = [
    (page, item["body"]) for page in PAGES for item in _FENCE.finditer(page.read_text()) if item["kind"] == "python"
]


def check(words: list[str], whole: bool) -> None:
    """Parse the arguments of one command as click would; raises click.ClickException."""
    command = main.commands.get(words[0])
    assert command is not None, f"no command {words[0]!r}"
    behind = words.index("--") if "--" in words else len(words)
    if whole and not {"--help", "-h"} & set(words):
        context = command.make_context(words[0], words[1:])
        assert context.params
    else:
        known = {option for item in command.params for option in item.opts} | {"--help", "-h"}
        assert {word.partition("=")[0] for word in words[1:behind] if word.startswith("-")} <= known
    if words[behind + 1 : behind + 2] == ["survey"]:
        check(words[behind + 2 :], whole)


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page.name}: {line}" for page, line in FOUND])
def test_every_command_exists_with_its_options(page, line):
    words = shlex.split(line)[1:]
    if words == ["--help"]:
        return
    in_a_sentence = f"`{line}`" in " ".join(page.read_text().split())
    if in_a_sentence:  # mentioned, perhaps without its arguments: `survey status`
        check(words, whole=False)
        return
    try:
        check(words, whole=True)
    except click.ClickException as error:
        pytest.fail(f"{page.name}: {line}: {error.format_message()}")


def test_the_readme_shows_the_commands_of_the_main_line():
    shown = {shlex.split(line)[1] for page, line in FOUND if page.name == "README.md"}
    assert {"simulate", "serve", "plan", "fetch", "run", "status", "explain", "verify", "mosaic"} <= shown


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page.name}: {line}" for page, line in FOUND])
def test_files_that_commands_name_are_there(page, line):
    named = [word for word in shlex.split(line) if word.startswith(("configs/", "deploy/"))]
    assert [name for name in named if not (ROOT / name).is_file()] == []


DRY = sorted({line for _, line in FOUND if "--dry-run" in line})


@pytest.mark.parametrize("line", DRY)
def test_dry_runs_run(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(main, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert "memory_gb=" in done.output


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_targets_of_make_exist():
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.MULTILINE)) <= rules


@pytest.mark.parametrize(("page", "body"), BLOCKS, ids=[f"{page.name}:{n}" for n, (page, _) in enumerate(BLOCKS)])
def test_python_blocks_use_names_that_exist(page, body):
    import survey

    tree = ast.parse(body)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "survey"
    }
    assert [name for name in used if not hasattr(survey, name)] == []
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    for node in imported:
        if node.module.split(".")[0] == "survey":
            module = __import__(node.module, fromlist=["x"])
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.whole
@pytest.mark.xdist_group("whole")  # one finished run serves all of them
def test_the_readmes_python_runs_on_a_finished_run(small, finished, tmp_path):
    """In a folder laid out as the readme has it, with the small run in place of the demo's."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "runs").mkdir()
    shutil.copytree(small.workspace, tmp_path / "runs" / "egs-demo", symlinks=True)
    config = small.config("readme", tmp_path / "runs" / "egs-demo")
    shutil.copy(config, tmp_path / "configs" / "demo.yaml")
    blocks = [body for page, body in BLOCKS if page.name == "README.md"]
    assert blocks
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
