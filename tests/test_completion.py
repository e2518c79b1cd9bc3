"""Shell completion, as docs/guide/completion.md describes it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guide" / "completion.md").read_text()


@pytest.fixture
def on_the_path(tmp_path, monkeypatch):
    """A command `survey` on the PATH, as an installation has it."""
    script = tmp_path / "bin" / "survey"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nfrom survey.cli.main import console\nconsole()\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


def completed(words: str) -> list[str]:
    """What bash offers for the last word of a line."""
    place = str(words.count(" "))
    variables = {**os.environ, "_SURVEY_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": place}
    done = subprocess.run(["survey"], env=variables, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("survey st", ["status"]),
        ("survey plan --o", ["--offline"]),
        ("survey init 1345 --filter F44", ["F444W"]),
        ("survey nothing-like-this", []),
    ],
)
def test_words_are_completed(on_the_path, words, expected):
    assert completed(words) == expected


def test_the_lines_of_the_page_work(on_the_path):
    """Each shell's line prints a script; bash, which every machine has, loads it."""
    lines = dict(re.findall(r"^\| (\w+).*\| `([^`]*_SURVEY_COMPLETE[^`]*)` \|$", PAGE, re.MULTILINE))
    assert set(lines) == {"bash", "zsh", "fish"}
    for shell, line in lines.items():
        assert f"_SURVEY_COMPLETE={shell}_source survey" in line
        variables = {**os.environ, "_SURVEY_COMPLETE": f"{shell}_source"}
        script = subprocess.run(["survey"], env=variables, capture_output=True, text=True, timeout=60).stdout
        assert f"_SURVEY_COMPLETE={shell}_complete" in script
    command = [shutil.which("bash"), "-c", f"{lines['bash']}; complete -p survey"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(" survey")
