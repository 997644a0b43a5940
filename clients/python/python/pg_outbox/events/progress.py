"""Shows how far rebuilds are: bars on a terminal, and plain lines where there is none.

    engine.rebuild("revenue", clear=clear, progress=ProgressBar())
"""

from __future__ import annotations

import math
import re
import shutil
import sys
from typing import TextIO

from .projections import RebuildProgress

_WIDTH = 20


def _number(value: float) -> str:
    return f"{math.floor(value + 0.5):,}"


def _left(seconds: float | None, over: bool) -> str:
    if over:
        return "done"
    if seconds is None:
        return ""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s left"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s left"
    return f"{whole // 3600} h {whole % 3600 // 60} min left"


def progress_line(progress: RebuildProgress, *, bar: bool = True, width: int = 0) -> str:
    """Returns a rebuild as a line, with a bar or without. width: of the longest name."""
    share = 1.0 if progress.total == 0 else progress.done / progress.total
    filled = math.floor(share * _WIDTH)
    # A control character in a name would change the terminal.
    parts = [re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", progress.projection).ljust(width)]
    if bar:
        parts.append(f"[{'#' * filled}{'.' * (_WIDTH - filled)}]")
    parts += [
        f"{math.floor(share * 100):3} %", f"{_number(progress.done)} of {_number(progress.total)}", f"{_number(progress.rate)}/s",
        _left(progress.remaining, progress.done >= progress.total),
    ]
    return "  ".join(parts).rstrip()


class ProgressBar:
    """The argument `progress` of rebuild() and rebuild_all(). On a terminal each projection has a bar, which is drawn again each
    second; elsewhere each report is a line. stream: by default the standard error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown: dict[str, RebuildProgress] = {}
        self._drawn = 0

    def __call__(self, progress: RebuildProgress) -> None:
        """Shows a report."""
        if not self._stream.isatty():
            self._stream.write(progress_line(progress, bar=False) + "\n")
        else:
            self._shown[progress.projection] = progress
            width = max(map(len, self._shown))
            # A line that wraps would be drawn twice.
            most = shutil.get_terminal_size().columns - 1
            lines = [f"\r\x1b[2K{progress_line(one, width=width)[:most]}\n" for one in self._shown.values()]
            self._stream.write((f"\x1b[{self._drawn}A" if self._drawn else "") + "".join(lines))
            self._drawn = len(lines)
        self._stream.flush()
