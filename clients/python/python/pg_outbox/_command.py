"""The command `python -m pg_outbox worker app:app`. It is not in `__main__`, because a process that is begun again for
`--reload` has to import it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING

from ._errors import OutboxError, invalid

if TYPE_CHECKING:
    from ._app import App


def _load(target: str) -> App:
    from ._app import App

    module, _, name = target.partition(":")
    # The folder of the caller, as python -m has it; a console script does not.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise invalid(f'there is no module "{module}"', hint=f"The folder is {os.getcwd()}.") from error
    found = getattr(loaded, name or "app", None)
    if not isinstance(found, App):
        raise invalid(f'"{name or "app"}" of module "{module}" is no App', hint="For example app.py with app = pg_outbox.App().")
    return found


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pg_outbox", description="The worker application of pg_outbox.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    worker = commands.add_parser("worker", help="run an application until SIGTERM or Ctrl-C")
    worker.add_argument("app", metavar="MODULE:APP", help="where the pg_outbox.App is, for example app:app")
    worker.add_argument("--subscription", action="append", metavar="NAME", help="only this subscription; may be repeated")
    worker.add_argument("--concurrency", type=_positive, metavar="N", help="handlers at once, where the application does not say it (8)")
    worker.add_argument("--health", metavar="ADDRESS", help="answer /health and /metrics there, for example :8080")
    worker.add_argument("--log-level", default="INFO", type=str.upper, metavar="LEVEL",
                        choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="DEBUG, INFO (default), WARNING or ERROR")
    worker.add_argument("--reload", action="store_true", help="begin again when a file in this folder changes; for development")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError("from 1 to 10000")
    return number


def _work(arguments: argparse.Namespace) -> int:
    """Runs the application and returns the exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 after an error."""
    # An application that has set up logging when it was imported keeps its own.
    try:
        app = _load(arguments.app)
        logging.basicConfig(level=arguments.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        app.run(subscriptions=arguments.subscription, concurrency=arguments.concurrency, health=arguments.health)
    except KeyboardInterrupt:
        return 130
    except (OutboxError, OSError) as error:
        print(f"pg_outbox: {error}", file=sys.stderr)
        return 1
    return 0


def _reload(arguments: argparse.Namespace) -> int:
    try:
        import watchfiles
    except ImportError:
        print("pg_outbox: --reload needs the package watchfiles: pip install 'pg-outbox[reload]'", file=sys.stderr)
        return 1
    watchfiles.run_process(os.getcwd(), target=_work, args=(arguments,), watch_filter=watchfiles.PythonFilter())
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = _arguments(argv)
    return _reload(arguments) if arguments.reload else _work(arguments)
