"""A griffe extension: rnnkern's docstrings, which are plain text, as Markdown.

``name: text`` lines become list items; ``*`` between words (D*H) and ``<`` become plain characters.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

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


class PlainDocstrings(Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
