"""Sentences that a newcomer does not understand at first reading: the patterns that a machine can see, in comments and docs.

The rule is in docs/glossary.md: the subject of a sentence is a noun, and a thing has one name.
"""

import pathlib
import re
import subprocess
import sys

PATTERNS = [
    (re.compile(r"(?:^|[.:;] )(?:What|Who|Whoever|Whatever|Whichever) (?!to\b)(?!(?:is|are|was|does|do|did|has|happens|must|can|to)\b[^.]*\?)[^?]*$"),
     "a question word as the subject of a sentence"),
    (re.compile(r"\bwhoever\b", re.IGNORECASE), "whoever: name the person"),
    (re.compile(r"\bto be had\b|\banew\b|\bbe it\b|\bhe who\b|\bshall not\b"), "archaic"),
    (re.compile(r"\b(?:bury|buried|errands?|tally|tallies)\b", re.IGNORECASE), "a word of the old dialect; see docs/glossary.md"),
    (re.compile("\u2014"), "a dash that joins two sentences"),
]
MARKS = {
    ".rs": r"^\s*//[/!]?\s?(.*)$", ".sql": r"^\s*--\s?(.*)$", ".ts": r"^\s*(?://|/?\*+)\s?(.*)$", ".mjs": r"^\s*//\s?(.*)$",
    ".py": r"^\s*#\s?(.*)$", ".md": r"^(.*)$", "": r"^\s*#(?!!)\s?(.*)$",
}
# Generated from other files, whose text is checked; the log of changes names what was renamed; the licence.
EXCEPT = re.compile(r"^(?:docs/(?:sql|settings|cli)\.md|CHANGELOG\.md|LICENSE|scripts/check_prose\.py|.*/functions\.ts|.*/_generated\.py)$|\.(?:lock|json|out|svg|toml|txt)$")


def main() -> int:
    wrong = []
    for name in subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split("\n"):
        path = pathlib.Path(name)
        mark = MARKS.get(path.suffix)
        if not name or not mark or EXCEPT.search(name) or not path.is_file():
            continue
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path.suffix == ".md" and line.startswith("```"):
                fenced = not fenced
            found = re.match(mark, line)
            if fenced or not found:
                continue
            text = re.sub(r"`[^`]*`", "x", found.group(1))
            wrong += [f"{name}:{number}: {why}: {text.strip()}" for pattern, why in PATTERNS if pattern.search(text)]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


sys.exit(main())
