"""The programs of TUTORIAL.md do what it shows."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import psycopg
from test_client import until

TUTORIAL = pathlib.Path(__file__).parents[1] / "TUTORIAL.md"


def plain(line):
    line = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", "TIME ", line)
    return re.sub(r"msg_\w+", "msg", line)


def test_the_programs_of_the_tutorial_do_what_it_shows(dsn, tmp_path):
    blocks = re.findall(r"```(python|console)\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    app, shop, test = (text for kind, text in blocks if kind == "python")
    consoles = [text for kind, text in blocks if kind == "console"]
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "test_shop.py").write_text(test)
    env = {**os.environ, "DATABASE_URL": dsn, "PYTHONUNBUFFERED": "1"}

    def run(*arguments, **options):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, check=True, capture_output=True, text=True, timeout=120, **options
        ).stdout

    run("shop.py")
    worker = subprocess.Popen(
        [sys.executable, "-m", "pg_outbox", "worker", "app:app"], cwd=tmp_path, env=env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            count = "select count(*) from outbox.dead_letter"
            until("both are dead letters", lambda: conn.execute(count).fetchone()[0] == 2)
    finally:
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=60)
    seen = [plain(line) for line in output.splitlines()]
    (running,) = (text for text in consoles if "worker app:app" in text)
    shown = [plain(line) for line in running.splitlines() if re.match(r"20|billed|ZeroDivisionError", line)]
    assert len(shown) >= 9
    for line in shown:
        assert line in seen, f"{line}\nis not in\n{output}"

    (outcome,) = (text for text in consoles if "dead_letter_status" in text)
    _, program, printed = re.split(r"\$ python - <<'END'\n|END\n", outcome)
    assert sorted(run("-", input=program).splitlines()) == sorted(printed.splitlines())
    assert "1 passed" in run("-m", "pytest", "-q", "test_shop.py")
