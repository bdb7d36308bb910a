"""MkDocs hooks: pages from files outside docs/, and links to such files.

``PAGES`` puts a file of the checkout on the site as a page; the file stays the only copy. A relative link to any other
file outside docs/ publishes that file under files/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]

PAGES: Final = {  # page on the site -> file of the checkout
    "index.md": "README.md",
    "design.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "measuring.md": "bench/NOTES.md",
}
_SOURCES: Final = {source: page for page, source in PAGES.items()}
_LINK: Final = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
_CODE: Final = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for source in _linked(files):
        files.append(File.generated(config, f"files/{source}", abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the checkout -> links as they are on the site."""
    here = page.file.src_uri

    def link(match: re.Match[str]) -> str:
        target = _target(here, match[2])
        if target is None:
            return match[0]
        there = _SOURCES.get(target) or target.removeprefix("docs/")
        if target not in _SOURCES and not target.startswith("docs/"):
            there = f"files/{target}"
        return f"{match[1]}{posixpath.relpath(there, posixpath.dirname(here) or '.')}{match[3]}"

    return _outside_code(markdown, lambda text: _LINK.sub(link, text))


def _source(page: str) -> str:
    return PAGES.get(page, f"docs/{page}")


def _target(page: str, link: str) -> str | None:
    """The file of the checkout that a link on a page leads to; None for an address, or if there is no such file."""
    if "://" in link:
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(_source(page)), link))
    return target if (ROOT / target).is_file() else None


def _linked(files: Files) -> list[str]:
    """The files outside docs/ that pages link to and that are no pages themselves."""
    found: dict[str, None] = {}
    for file in files.documentation_pages():
        text = (ROOT / _source(file.src_uri)).read_text(encoding="utf-8")
        for match in _LINK.finditer(_CODE.sub("", text)):
            target = _target(file.src_uri, match[2])
            if target and target not in _SOURCES and not target.startswith("docs/"):
                found[target] = None
    return list(found)


def _outside_code(markdown: str, change: Any) -> str:
    """``change`` of all text between code blocks and code spans."""
    parts, end = [], 0
    for match in _CODE.finditer(markdown):
        parts += [change(markdown[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, change(markdown[end:])])
