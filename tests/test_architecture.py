"""The house: which room may import which, and private names stay in their room."""

import ast
from collections.abc import Iterator
from pathlib import Path

import vireid

SOURCE = Path(vireid.__file__).parent
BASE = "errors options records files progress weights __version__"
MODEL = "nn losses methods"
TRAINED = f"{MODEL} data recipe bundle embedder embed precision allocator environment"
EVALUATED = f"{TRAINED} evaluation synth"

ARROWS = {
    "errors": "",
    "options": "errors",
    "files": "errors",
    "progress": "",
    "records": "errors files",
    "precision": "",
    "allocator": "",
    "environment": "",
    "weights": "",
    "weights_import": f"{MODEL} bundle",
    "nn": "",
    "losses": "nn",
    "methods": "nn losses",
    "synth": "",
    "data": "",
    "recipe": f"{MODEL} data precision",
    "bundle": f"{MODEL} precision",
    "embedder": f"{MODEL} data bundle precision allocator",
    "embed": "data embed_parts onnx_embedder",
    "embed_parts": "data embedder onnx_embedder precision",
    "embed_ray": "embed_parts",
    "onnx_embedder": "data",
    "export": f"{MODEL} data bundle embedder onnx_embedder quantize precision environment",
    "quantize": "data onnx_embedder",
    "evaluation": f"{TRAINED} synth",
    "training": EVALUATED,
    "plots": "evaluation",
    "report": f"{EVALUATED} training plots",
    "gallery": "load data bundle embedder evaluation",
    "ingest": "data embed embedder gallery",
    "serve": "data gallery",
    "client": "gallery serve",
    "pose_sources": "data precision",
    "pose": "data nn pose_sources",
    "attention": "data embed embedder methods plots",
    "swap": "data bundle methods plots",
    "doctor": "data nn precision environment",
    "demo": f"{EVALUATED} training report",
    "__init__": "embedder methods gallery",
    "__main__": "cli",
}
"""What a room may import besides `BASE`; the command line (`cli`) may import everything, and nothing imports it."""

EXCEPTIONS = {
    ("data/datamodule.py", "recipe"): "a training's loader is built from the whole recipe",
}
"""Single files that go against the arrows, each with its reason."""


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """The (room, name) of everything of vireid that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
            yield from ((parts[1] if parts[1:] else "__init__", "") for parts in modules if parts[0] == "vireid")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vireid":
            room = (node.module or "").split(".")[1:2]
            yield from ((room[0] if room else alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"


FILES = {file: file.parts[0].removesuffix(".py") for file in (p.relative_to(SOURCE) for p in SOURCE.rglob("*.py"))}


def test_every_room_has_its_arrows():
    assert set(FILES.values()) - {"cli"} == set(ARROWS)


def allowed(room: str) -> list[str]:
    """What a room may import."""
    return ARROWS[room].split() + ([] if room in BASE.split() else BASE.split())


def test_no_import_against_the_arrows():
    used, wrong = set(), []
    for file, room in FILES.items():
        for target in {target for target, _ in imports(SOURCE / file)} - {room}:
            if room == "cli" or target in allowed(room):
                continue
            used.add((file.as_posix(), target))
            if (file.as_posix(), target) not in EXCEPTIONS:
                wrong.append(f"{file} imports {target}")
    assert not wrong
    assert used == set(EXCEPTIONS), "an exception that nothing needs"


def test_the_arrows_have_no_circle():
    """Every room can be taken down after the rooms that it stands on."""
    left = {room: set(targets.split()) & set(ARROWS) - {room} for room, targets in ARROWS.items()}
    while left:
        free = {room for room, targets in left.items() if not targets & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in free}


def test_no_room_takes_anothers_private_name():
    private = [
        f"{file}: {name} of {target}"
        for file, room in FILES.items()
        for target, name in imports(SOURCE / file)
        if target != room and name.startswith("_") and not name.startswith("__")
    ]
    assert not private
