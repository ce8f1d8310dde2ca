"""Contact sheets: one search's candidates on a page, as a picture or a self-contained web page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment
from PIL import Image, ImageDraw, ImageFont, ImageOps

from vireid.errors import InputError, MissingError
from vireid.files import replacing, require_file_place, write_text
from vireid.gallery.types import Candidate, SearchResult, Use, check_use
from vireid.gallery.wording import probability, when

if TYPE_CHECKING:
    from vireid.gallery.gallery import Gallery

COLUMNS = 6
_CELL, _CROP, _LINE = (170, 330), (150, 260), 15

_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ result.message }}</title>
<style>
:root { color-scheme: light dark; font: 15px system-ui, sans-serif }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(9em, 1fr)); gap: 1em; padding: 0; list-style: none }
img { width: 100%; height: 16em; object-fit: contain; background: #8883 }
p { margin: .3em 0; overflow-wrap: anywhere }
</style>
<h1>{{ result.message }}</h1>
<p>Search {{ result.id }}, query {{ result.query }}
{%- if result.rerank %}, re-ranked by {{ result.rerank }}{% endif %}</p>
<ol>{% for picture, lines in cells %}
<li>{% if picture %}<img src="data:image/jpeg;base64,{{ picture }}" alt="{{ lines[0] }}">{% endif %}
{% for line in lines %}<p>{{ line }}</p>{% endfor %}</li>{% endfor %}
</ol></html>
""")


def contact_sheet(gallery: Gallery, result: SearchResult, out: Path, use: Use) -> Path:
    """Write the candidates of a search with their crops and captions, for the file's owner alone to read.

    Candidates that have been erased since are left out.

    Args:
        gallery: where the crops are.
        result: what was found.
        out: a file that ends in `.png` or `.html`.
        use: who takes it out of the gallery and why; the audit log keeps it before the file is written.

    Raises:
        InputError: as `require_sheet_place`, or without the purpose and the case that the gallery asks for.
    """
    require_sheet_place(out)
    check_use(use, gallery.settings.require_purpose)
    shown: list[str] = []
    crops: list[bytes | None] = []
    captions: list[list[str]] = []
    for candidate in result.candidates:
        try:
            crops.append(gallery.crop(candidate.item.id))
        except MissingError:
            continue
        shown.append(candidate.item.id)
        captions.append(caption(candidate))
    gallery.audit.append("export", use, results=shown, details={"search": result.id, "kind": "contact sheet"})
    if out.suffix == ".html":
        pictures = [base64.b64encode(crop).decode() if crop else "" for crop in crops]
        write_text(out, _PAGE.render(result=result, cells=zip(pictures, captions, strict=True)), private=True)
    else:
        with replacing(out, private=True) as temporary:
            _draw(result, crops, captions).save(temporary, format="PNG")
    return out


def require_sheet_place(out: Path) -> None:
    """Refuse a file that a contact sheet cannot be written to, before there is one.

    Raises:
        InputError: for another ending than `.png` or `.html`, or as `require_file_place`.
    """
    if out.suffix not in (".html", ".png"):
        raise InputError(f"a contact sheet is a .png or .html file, not {out.name}")
    require_file_place(out)


def caption(candidate: Candidate) -> list[str]:
    """Return what a person must know beside a crop, a line each."""
    item = candidate.item
    score = "not calibrated" if candidate.score is None else f"score {probability(candidate.score)}"
    return [f"{candidate.rank}. {candidate.state}", f"{item.camera}, {item.modality}", when(item.time), score]


def _draw(result: SearchResult, crops: list[bytes | None], captions: list[list[str]]) -> Image.Image:
    width, height = _CELL
    rows = -(-len(crops) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height + 2 * _LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    draw.text((10, _LINE // 2), result.message, fill="black", font=font)
    for i, (crop, lines) in enumerate(zip(crops, captions, strict=True)):
        left, top = i % COLUMNS * width + 10, i // COLUMNS * height + 2 * _LINE
        if crop is not None:
            picture = Image.open(io.BytesIO(crop)).convert("RGB")
            sheet.paste(ImageOps.contain(picture, _CROP), (left, top))
        for row, line in enumerate(lines):
            draw.text((left, top + _CROP[1] + row * _LINE), line[:30], fill="black", font=font)
    return sheet
