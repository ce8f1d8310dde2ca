"""The training recipe: everything a run depends on, typed, as YAML."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny, field_validator, model_validator

from vireid.data.augment import Augment
from vireid.data.sampler import Sampling
from vireid.data.sequences import Sequences
from vireid.errors import InputError
from vireid.losses.memory import MemoryOptions
from vireid.methods import parse_options, parse_terms
from vireid.nn import BackboneOptions
from vireid.options import Options, checked, require_unset, setting
from vireid.precision import Wanted

Decay = Annotated[float, Field(ge=0, lt=1)]
"""A decay rate."""


class DataOptions(Options):
    """Which data, at which size."""

    name: str = "synthetic"
    root: Path | None = Field(None, description="folder of the data set")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the data set's loader")
    image_size: tuple[PositiveInt, PositiveInt] = Field((288, 144), description="height, width in pixels")
    keep_visible: float = Field(1.0, gt=0, le=1, description="share of visible training images kept per identity")
    keep_infrared: float = Field(1.0, gt=0, le=1, description="share of infrared training images kept per identity")
    cache: bool = Field(True, description="decode once into a memory-mapped cache; false decodes at every read")
    workers: int = Field(0, ge=0, description="loader processes of the training; 0 suits the cache on few cores")


class OptimizerOptions(Options):
    """One optimiser and the learning rates of its parameter groups."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    momentum: Decay = 0.9
    nesterov: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    phase: str = Field("main", description="the phase of a step whose losses it minimises")
    takes: tuple[str, ...] = Field((), description="parameter groups that the method gives to another optimiser")
    lr_scale: dict[str, float] = Field(default_factory=dict, description="factor on lr by parameter group")
    weight_decay_scale: dict[str, float] = Field(default_factory=dict, description="factor by parameter group")
    bias_lr_scale: float = Field(1.0, gt=0, description="further factor on the lr of biases")
    scheduled: bool = Field(True, description="false keeps lr constant")

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        require_unset(self, f"kind={self.kind}", *(["betas"] if self.kind == "sgd" else ["momentum", "nesterov"]))
        return self


class Schedule(Options):
    """Learning-rate factor by epoch (0-based) or, for `halving`, by step.

    `steps`: warm-up, then `gamma` to the power of the milestones passed. `cosine`: warm-up, then a half cosine to
    `final`. `halving`: 0.5 to the power of `step // halve_every`.
    """

    kind: Literal["steps", "cosine", "halving"] = "steps"
    warmup_epochs: int = Field(10, ge=0)
    warmup_start: float = Field(0.0, ge=0, description="factor that the linear warm-up starts from")
    warmup_offset: Literal[0, 1] = Field(1, description="epoch e warms up to (e + offset) / warmup_epochs")
    milestones: tuple[NonNegativeInt, ...] = (20, 50)
    gamma: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        0.1, description="factor at each milestone, or one for each"
    )
    final: float = Field(0.01, ge=0)
    halve_every: int = Field(25_000, gt=0)

    @model_validator(mode="after")
    def _uses_all(self) -> Self:
        own = {"steps": ("milestones", "gamma"), "cosine": ("final",), "halving": ("halve_every",)}
        idle = [name for kind, names in own.items() if kind != self.kind for name in names]
        warmup = ("warmup_epochs", "warmup_start", "warmup_offset") if self.kind == "halving" else ()
        require_unset(self, f"kind={self.kind}", *idle, *warmup)
        return self

    @model_validator(mode="after")
    def _pair_factors(self) -> Self:
        if isinstance(self.gamma, tuple) and len(self.gamma) != len(self.milestones):
            factors = f"{len(self.gamma)} factors gamma for {len(self.milestones)} milestones"
            raise ValueError(f"{factors}: give one for each, or a single number")
        return self

    @field_validator("milestones")
    @classmethod
    def _ascend(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(first >= second for first, second in pairwise(value)):
            raise ValueError("name the epochs in order, such as [20, 50]")
        return value


class ProjectionTraining(Options):
    """How a refiner's projection is trained on its encoder's features: NFormer's first stage."""

    epochs: int = Field(120, ge=0)
    lr: float = Field(3.5e-4, gt=0, description="of Adam")
    weight_decay: float = Field(5e-4, ge=0)
    center_lr: float = Field(0.5, gt=0, description="of the centres' SGD")
    schedule: Schedule = Schedule(warmup_start=0.01, milestones=(39, 69))


class Validation(Options):
    """Evaluation during training."""

    every: int = Field(2, ge=0, description="epochs between evaluations; 0 evaluates after the last one only")
    split: Literal["auto", "val", "test"] = Field("auto", description="auto takes val where the data set has one")
    protocol: str | None = Field(None, description="preset name; default: the data set's first")
    feature: str = "global"
    flip: bool = Field(False, description="average the features of an image and its mirror image")
    select: Literal["rank1", "mAP", "mINP"] = Field("mAP", description="the metric that chooses the best bundle")


class Recipe(Options):
    """A resolved training recipe; the defaults are AGW's cross-modality ones."""

    method: str = "agw"
    seed: int = Field(0, ge=0, lt=2**32)
    epochs: int = Field(81, gt=0)
    backbone: BackboneOptions = BackboneOptions()
    options: SerializeAsAny[Options] = Field(default_factory=Options, description="the method's own options")
    terms: dict[str, SerializeAsAny[Options]] = Field(
        default_factory=dict, description="extra loss terms on the method's embedding, such as memory: {weight: 1.0}"
    )
    encoder: Path | None = Field(None, description="run folder or bundle whose features a refiner is trained on")
    projection: ProjectionTraining = ProjectionTraining()
    sequences: Sequences = Sequences()
    data: DataOptions = DataOptions()
    augment: Augment = Augment()
    sampling: Sampling = Sampling()
    optimizers: dict[str, OptimizerOptions] = Field(default_factory=lambda: {"main": OptimizerOptions()})
    schedule: Schedule = Schedule()
    clip_norm: float | None = Field(None, gt=0, description="gradient norm limit of each optimiser; null = off")
    gather: bool = Field(True, description="metric losses compare the images of all devices")
    sync_norm: bool = Field(True, description="BatchNorm over the images of all GPUs; on CPUs each process has its own")
    precision: Wanted = Field("auto", description="of training and evaluation; auto: measured choice per device")
    validation: Validation = Validation()
    expected_steps: int | None = Field(None, description="batches per epoch on the complete data set, for comparison")
    keep_checkpoints: int = Field(2, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _parse_method_options(cls, values: dict[str, Any]) -> dict[str, Any]:
        method, given = values.get("method", "agw"), values.get("terms") or {}
        if not isinstance(method, str):
            raise ValueError(f"method={method}: name a method, such as agw")
        if not isinstance(given, dict):
            raise ValueError(f"terms={given}: name loss terms with their options, such as {{memory: {{weight: 1.0}}}}")
        options = parse_options(method, _plain(values.get("options")))
        terms = {str(name): _plain(term) for name, term in given.items()}
        return {**values, "options": options, "terms": parse_terms(method, terms)}

    @field_validator("precision", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        """Take YAML's 32 for `32`."""
        return str(value) if type(value) is int else value

    @model_validator(mode="after")
    def _memories_start(self) -> Recipe:
        places: dict[str, Any] = {f"terms.{name}": term for name, term in self.terms.items()}
        places["options.memory"] = getattr(self.options, "memory", None)
        for place, memory in places.items():
            if isinstance(memory, MemoryOptions) and memory.weight and memory.stage1_epochs >= self.epochs:
                empty = f"{place}.stage1_epochs={memory.stage1_epochs} leaves the memories empty"
                raise ValueError(f"{empty} in all epochs={self.epochs}: set it lower, or {place}.weight=0")
        return self


def _plain(options: Options | dict[str, Any] | None) -> dict[str, Any]:
    return options.model_dump() if isinstance(options, Options) else options or {}


def load_recipe(
    source: dict[str, Any] | Path,
    overrides: list[str] | None = None,
    *,
    data: str | None = None,
    root: Path | None = None,
) -> Recipe:
    """Build a recipe from a YAML file or a plain dict, then apply `key=value` overrides.

    Args:
        source: YAML file or nested dict; unnamed fields keep their defaults.
        overrides: such as `backbone.weights=none` or `optimizers.main.lr=0.05`; values are YAML.
        data, root: replace the source's `data.name` and `data.root`, as they are.

    Raises:
        InputError: naming the file or key that is wrong.
    """
    where = f"recipe {source}" if isinstance(source, Path) else "recipe"
    values = _read_yaml(source) if isinstance(source, Path) else source
    for field, given in (("data.name", data), ("data.root", root)):
        values = values if given is None else _override(values, field, given)
    for override in overrides or []:
        key, value = setting("--set", override, "backbone.weights=none")
        values = _override(values, key, value)
    return checked(Recipe, values, f"{where}:")


def save_recipe(recipe: Recipe) -> str:
    """Return the fully resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def packaged_recipe(method: str, data: str) -> Path:
    """Return the shipped recipe of a method on a data set.

    Raises:
        InputError: naming the recipes there are for the method.
    """
    path = _packaged_folder() / data / f"{method}.yaml"
    if path.is_file():
        return path
    others = packaged_recipes(method)
    if not others:
        names = ", ".join(recipe_names())
        raise InputError(f"unknown method or recipe {method!r}: use one of {names}, or pass --recipe FILE")
    raise InputError(
        f"no recipe ships for {method} on data {data}, but for {', '.join(others)}: name one of these, or pass "
        "--recipe FILE"
    )


def packaged_recipes(method: str) -> list[str]:
    """Return the data sets that a method has a shipped recipe for."""
    return sorted(path.parent.name for path in _packaged_folder().glob(f"*/{method}.yaml"))


def recipe_names() -> list[str]:
    """Return the names of all shipped recipes: the methods, and compositions of them."""
    return sorted({path.stem for path in _packaged_folder().glob("*/*.yaml")})


def _packaged_folder() -> Path:
    return Path(str(resources.files("vireid") / "recipes"))


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"there is no recipe {path}: leave --recipe out for the one that ships, or check the path")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # UnicodeDecodeError, or a date such as 2026-13-01
        raise InputError(f"recipe {path} is not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"recipe {path} holds no fields: write it like the output of a run, RUN/recipe.yaml")
    return values


def _override(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    if not rest:
        return {**values, head: value}
    inner = values.get(head) or {}
    if not isinstance(inner, dict):
        raise InputError(f"--set {key}: {head} is a single value and has no field {rest}, set {head} itself")
    return {**values, head: _override(inner, rest, value)}
