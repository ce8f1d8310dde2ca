"""The English and the Chinese README say the same: same headings, commands, tables, figures, pictures and links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LANGUAGES = ("README.md", "README.zh-CN.md")


def bones(text: str) -> dict[str, list]:
    """What does not depend on the language."""
    code = re.findall(r"```\w*\n.*?```", text, re.DOTALL)
    prose = re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)
    links = set(re.findall(r"\]\(([^)\s]+)\)", prose)) - set(LANGUAGES)
    return {
        "headings": re.findall(r"^#+(?= )", prose, re.MULTILINE),
        "code": [re.sub(r"\s+# .*", "", block) for block in code],
        "tables": [line.count("|") for line in re.findall(r"^\|.*$", prose, re.MULTILINE)],
        "figures": sorted(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\]\([^)]*\)", "", prose))),
        "pictures": re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose),
        "inline code": sorted(re.findall(r"`([^`\n]+)`", prose)),
        "links": sorted(links),
    }


TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in LANGUAGES]


@pytest.mark.parametrize("bone", bones(""))
def test_both_languages_say_the_same(bone):
    english, chinese = (bones(text)[bone] for text in TEXTS)
    assert english
    assert english == chinese


def test_each_links_to_the_other_and_no_link_is_broken():
    assert LANGUAGES[1] in TEXTS[0]
    assert LANGUAGES[0] in TEXTS[1]
    targets = {link for text in TEXTS for link in bones(text)["links"] if not link.startswith("http")}
    assert not [target for target in targets if not (ROOT / target.partition("#")[0]).exists()]
