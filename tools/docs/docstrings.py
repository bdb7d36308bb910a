"""A griffe extension: rnnkern's docstrings, which are plain text, as Markdown.

``name: text`` lines become list items; ``*`` between words (D*H) and ``<`` become plain characters. A class that takes
options (``@takes_options``) gets their sentences from the table in options.py, as it does when Python imports it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from griffe import Docstring, Extension

TABLE: Final = Path(__file__).resolve().parents[2] / "python" / "rnnkern" / "options.py"
_TAKES: Final = re.compile(r"""takes_options\(["'](\w+)["'](, single_step=True)?\)""")

_NAMED = re.compile(r"^(\w+(?:\[\d\])?(?:, \w+)*): (?=\S)")
_NEXT = re.compile(r"""(?<=[.)"]) (?=[a-z_]\w+(?:, [a-z_]\w+)*: \S)""")  # ". name: text" inside a line
_SPAN = re.compile(r"(``.+?``|`[^`]+`)")


def markdown(text: str) -> str:
    lines: list[str] = []
    in_list = False
    for line in _NEXT.sub("\n", text).splitlines():
        if line.startswith("    ") and not in_list:  # an indented code block
            lines.append(line)
            continue
        named = _NAMED.match(line)
        if named and named[1][0].islower():
            if not in_list and lines and lines[-1]:
                lines.append("")
            in_list = True
            lines.append(
                "* " + ", ".join(f"`{name}`" for name in named[1].split(", ")) + ": " + _plain(line[named.end() :])
            )
            continue
        if not line.strip():
            in_list = False
        lines.append(_plain(line))
    return "\n".join(lines)


def _plain(line: str) -> str:
    return "".join(
        part if part.startswith("`") else re.sub(r"(?<=\S)\*(?=\S)|(?<= )\*(?= )", r"\\*", part).replace("<", "&lt;")
        for part in _SPAN.split(line)
    )


@cache
def table() -> list[tuple[str, list[str], str, bool]]:
    """(name, cells, sentence, whether a cell takes it) of each option, read from the source."""
    (options,) = (
        node
        for node in ast.parse(TABLE.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Options"
    )
    found = []
    for field in options.body:
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(field.value, ast.Call)
        ):
            keywords = {word.arg: word.value for word in field.value.keywords}
            cells, said = ast.literal_eval(field.value.args[1]), ast.literal_eval(keywords["said"])
            found.append((field.target.id, cells.split(), said, "single_step" not in keywords))
    return found


def _options(cls: Any) -> Iterator[str]:
    for decorator in cls.decorators:
        if match := _TAKES.search(str(decorator.value)):
            yield "\n\nOptions of the step ([equations](../options.md)); an unsupported combination is an error:\n"
            for name, cells, said, single in table():
                if match[1] in cells and (single or not match[2]):
                    yield f"{name}: {said}"


class PlainDocstrings(Extension):
    def on_class(self, *, cls: Any, **_: Any) -> None:
        options = list(_options(cls))
        if options and cls.docstring:
            cls.docstring = Docstring("\n".join([cls.docstring.value, *options]), parent=cls)

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
