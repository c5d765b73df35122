"""The blocks of a page, and how each kind of them is run.

sybil finds the blocks and knows their lines; a traceback leads into the page. Beside what it brings:

* the addresses of the pages are exchanged for those of real servers (world.py has the table),
* what a Python block prints, and what poolkit logs as a warning meanwhile, is compared with a ``text`` block
  that follows. Numbers and places in files may differ,
* ``console`` blocks run what follows ``$``, and compare all other lines,
* ``toml`` and ``ini`` blocks are read as the settings of a PoolKit.

A block that must not run has ``.. skip: next "why"`` before it.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import os
import re
import subprocess
import sys
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sybil import Document, Example, Sybil
from sybil.parsers.rest import CodeBlockParser, SkipParser

from poolkit import PoolKit

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.rst", *(ROOT / "docs").rglob("*.rst")])

RUN = ("python", "console", "toml", "ini", "text")
LEFT_ALONE = ("bash", "html", "javascript", "json", "yaml")
"""What is not run, and so always needs an excuse."""

_PLACE = re.compile(r"/[^\s:]*:\d+")
_UNCONFIRMED = (
    ", and it may have taken effect, wholly or in part"  # of a server too busy to confirm a cancel
)
_NUMBER = re.compile(r"\d[\d,]*(\.\d+)?")


class Page:
    """One page, whose blocks share a namespace.

    *pools* are made under their names, and again for the next block when one has closed them.
    """

    def __init__(
        self,
        path: Path,
        addresses: Mapping[str, str],
        names: Mapping[str, Any],
        pools: Mapping[str, Callable[[], Any]],
    ) -> None:
        self._pools = pools
        self._addresses = sorted(addresses.items(), key=lambda pair: -len(pair[0]))
        self._printed = ""
        evaluators = {
            "python": self._run_python,
            "console": self._run_console,
            "toml": self._read_settings,
            "ini": self._read_settings,
            "text": self._compare,
            **dict.fromkeys(LEFT_ALONE, _refuse),
        }
        parsers = [CodeBlockParser(*pair) for pair in evaluators.items()]
        self._document: Document = Sybil([*parsers, SkipParser()]).parse(path)
        self.names = self._document.namespace
        self.names.update(names, __name__="__main__")  # as in a script

    def run(self) -> tuple[int, list[str]]:
        """Run all blocks; return how many ran, and why the others did not."""
        ran, excuses = 0, []
        for example in self._document.examples():
            try:
                example.evaluate()
            except unittest.SkipTest as excuse:
                excuses.append(str(excuse))
            else:
                ran += not isinstance(example.parsed, tuple)  # the pair of a skip
        return ran, excuses

    def _run_python(self, example: Example) -> None:
        for name, make in self._pools.items():
            if getattr(self.names.get(name), "state", "closed") == "closed":
                self.names[name] = make()
        source = self._exchange(example.parsed)
        lines = "\n" * (example.line + example.parsed.line_offset)
        # The pages' annotations and __future__ are those of a module of today's.
        code = compile(lines + source, example.path, "exec", dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), _warnings_into(printed):
            exec(code, example.namespace)
        self._printed = printed.getvalue()

    def _run_console(self, example: Example) -> None:
        commands, expected = [], []
        for line in str(example.parsed).splitlines():
            if line.startswith("$ "):
                commands.append(line[2:].partition("  # ")[0])
            else:
                expected.append(line)
        plain = {name: value for name, value in os.environ.items() if "POOLKIT_" not in name}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-c", self._exchange("\n".join(commands))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,  # what it says is looked at
            env={**plain, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        )
        _must_match(done.stdout, "\n".join(expected))

    def _read_settings(self, example: Example) -> None:
        path = Path(self.names["folder"]) / f"poolkit.{example.region.lexemes['arguments']}"
        path.write_text(self._exchange(example.parsed))
        PoolKit.from_file(path).close()

    def _compare(self, example: Example) -> None:
        if not self._printed:
            raise AssertionError(
                f"{example.path}:{example.line}: nothing was printed before this block; "
                'is it no output, then it needs a line .. skip: next "why"'
            )
        printed, self._printed = self._printed, ""
        _must_match(printed, str(example.parsed))

    def _exchange(self, text: str) -> str:
        for shown, real in self._addresses:
            text = text.replace(shown, real)
        return text


def _refuse(example: Example) -> None:
    language = example.region.lexemes["arguments"]
    raise AssertionError(
        f'{example.path}:{example.line}: nothing runs {language}; say .. skip: next "why"'
    )


def unknown_blocks(text: str) -> list[str]:
    """Return the blocks of *text* that nothing would run."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        directive = re.match(r"\s*\.\. ([\w-]+)::\s*(\S*)", line)
        if directive is None:
            if line.rstrip().endswith("::") and not line.lstrip().startswith(".."):
                found.append(f"line {number}: a literal block; use code-block, with its language")
        elif directive[1] in ("code", "sourcecode", "parsed-literal"):
            found.append(f"line {number}: {directive[1]}; use code-block")
        elif directive[1] == "code-block" and directive[2] not in RUN + LEFT_ALONE:
            found.append(f"line {number}: nothing runs {directive[2] or 'a block of no language'}")
        if re.match(r"\s*\.\. skip: next\s*$", line):
            found.append(f"line {number}: skipped without a reason")
    return found


@contextlib.contextmanager
def _warnings_into(printed: io.StringIO) -> Any:
    """Have what poolkit logs as a warning printed, as Python does where logging is not set up."""
    handler = logging.StreamHandler(printed)
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("poolkit")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _must_match(printed: str, expected: str) -> None:
    printed_lines, expected_lines = _comparable(printed), _comparable(expected)
    if printed_lines != expected_lines:
        difference = difflib.ndiff(expected_lines, printed_lines)
        raise AssertionError("\n".join(["the page differs from", printed, *difference]))


def _comparable(text: str) -> list[str]:
    """Return the lines of *text* without what differs from run to run: numbers, files, spaces at the end."""
    text = re.sub("─+", "─", text).replace(_UNCONFIRMED, "")
    lines = [
        _NUMBER.sub("#", _PLACE.sub("FILE:#", line)) for line in text.split("\n") if line.strip()
    ]
    return [re.sub(r"  +", "  ", line).strip() for line in lines]
