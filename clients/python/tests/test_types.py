"""What the type checkers accept and refuse. A forgotten await loses a message, so they have to see it."""

import json
import pathlib
import re
import subprocess
import sys

import pg_outbox
import pytest

PROGRAMS = [pathlib.Path(__file__).parent / "typed" / name for name in ("app.py", "events.py")]
EXAMPLE = pathlib.Path(__file__).resolve().parents[3] / "examples/python-fastapi"


def mypy(path, *more):
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--show-error-codes", *more, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent).stdout
    return {int(n): text for n, text in re.findall(r"^[^\n:]+:(\d+): error: (.*)$", out, re.MULTILINE)}, out


def pyright(path):
    config = {"include": [str(path)], "typeCheckingMode": "strict", "venv": "", "reportMissingTypeStubs": False}
    project = path.parent / "pyrightconfig.json"
    assert not project.exists(), config
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=path.parent).stdout
    if not out.startswith("{"):
        pytest.skip("pyright needs Node")
    found = [d for d in json.loads(out)["generalDiagnostics"] if d["severity"] == "error"]
    return {d["range"]["start"]["line"] + 1: d["message"] for d in found}, out


def refused(program):
    return {n for n, line in enumerate(program.read_text().splitlines(), 1) if line.endswith("# refused")}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_mypy_refuses_what_loses_a_message(program):
    found, out = mypy(program, "--enable-error-code=unused-coroutine")
    assert set(found) == refused(program), out


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_pyright_refuses_what_loses_a_message(program):
    found, out = pyright(program)
    assert set(found) == refused(program), out


@pytest.mark.parametrize("check", [mypy, pyright])
def test_the_example_is_clean(check):
    found, out = check(EXAMPLE / "app.py")
    assert found == {}, out


def test_the_package_is_right_for_pyright():
    """mypy --strict is a part of scripts/test."""
    package = pathlib.Path(pg_outbox.__file__).parent
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(package)]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd=package.parent).stdout
    if not out.startswith("{"):
        pytest.skip("pyright needs Node")
    found = json.loads(out)
    errors = [f"{d['file']}:{d['range']['start']['line'] + 1}: {d['message']}" for d in found["generalDiagnostics"] if d["severity"] == "error"]
    assert found["summary"]["filesAnalyzed"] > 30 and errors == []
