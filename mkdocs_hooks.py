"""What the site does to the pages in docs/ while it is built; on a code host they read as they are.

Formulas become MathML, Mermaid diagrams become SVG pictures, and links that leave docs/ become links to the repository,
so that a page asks nobody else for scripts, fonts or pictures.
"""

import base64
import html
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import mmdr
from latex2mathml.converter import convert

log = logging.getLogger("mkdocs.hooks")

LINK = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Let fences of language `mermaid` be drawn."""
    fence = {"name": "mermaid", "class": "diagram", "format": draw}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to files of the repository that are no pages into URLs; one that leads nowhere is a warning."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(docs, posixpath.dirname(page.file.src_uri), match["path"]))
        if target.startswith(f"{docs}/"):
            return match[0]
        if not (root / target).exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, target)
        kind = "tree" if (root / target).is_dir() else "blob"
        return f"]({config.extra['repository']}/{kind}/main/{target}{match['anchor'] or ''})"

    return LINK.sub(outside, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Set every formula as MathML."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["tag"] == "div" else "inline"
        return convert(html.unescape(match["tex"]), display=display)

    return FORMULA.sub(formula, content)


def draw(source: str, language: str, css_class: str, options: Any, md: Any, **kwargs: Any) -> str:
    """Draw a Mermaid diagram as a picture."""
    picture = base64.b64encode(mmdr.render(source).svg().encode()).decode()
    return f'<img class="{css_class}" alt="diagram" src="data:image/svg+xml;base64,{picture}">'
