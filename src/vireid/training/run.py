"""Train a recipe into a run folder, or go on with one."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.markup import escape

from vireid.allocator import kept_memory
from vireid.bundle import BundleCard
from vireid.data import find_dataset, open_dataset, require_root, title_of
from vireid.data.datamodule import TrainingData, describe_split, image_source
from vireid.data.findings import count_findings
from vireid.embedder import pose_notice
from vireid.environment import describe_environment, git_commit
from vireid.errors import InputError
from vireid.evaluation.evaluate import find_protocols
from vireid.files import alone, require_folder_place, write_text
from vireid.methods import Method, build, require_statistics
from vireid.precision import Precision, choose_precision, default_device
from vireid.progress import progress_bar
from vireid.recipe import Recipe, load_recipe, save_recipe
from vireid.records import Batch, Modality, Records
from vireid.training.callbacks import Bundles, LossBar
from vireid.training.checkpoint import AtomicCheckpointIO, latest_checkpoint, remove_torn, trained_epochs
from vireid.training.logs import open_log
from vireid.training.module import TrainingModule
from vireid.training.optim import build_optimizers
from vireid.training.precision import loss_scaling
from vireid.training.ranks import (
    INTERRUPTED,
    TERMINATED,
    Launch,
    build_strategy,
    is_rank_zero,
    one_voice,
    plan_launch,
    require_equal_shares,
    synchronise_norms,
)
from vireid.training.refine import FeatureSequences, RefinerBundles, RefinerModule, resolve_encoder

Data = TrainingData | FeatureSequences


def train(recipe: Recipe, run: Path, *, console: Console | None = None, devices: int = 1, num_nodes: int = 1) -> Path:
    """Train from the start; of several processes, the first alone makes the run folder and speaks.

    Args:
        recipe: what to train.
        run: folder to make; holds the resolved recipe, logs, checkpoints, and the bundles `last` and `best`.
        console: where progress goes.
        devices: GPUs (or CPU processes) a node.
        num_nodes: machines, started by torchrun or SLURM.

    Returns:
        The `last` bundle.

    Raises:
        InputError: when the run folder is in use, recipe and data do not fit, or there are too few devices.
    """
    launch = plan_launch(devices, num_nodes)
    _require_new(run)
    data = recipe.data.model_copy(update={"root": _require_root(recipe).resolve()})
    recipe = resolve_encoder(recipe.model_copy(update={"data": data, "backbone": recipe.backbone.resolved()}))
    return _fit(recipe, run, console or Console(), launch, None, _held(run, resumed=False))


def resume(run: Path, *, console: Console | None = None, devices: int = 1, num_nodes: int = 1) -> Path:
    """Go on with a run from its last whole checkpoint, to the same weights as an uninterrupted run.

    Raises:
        InputError: when the folder holds no run, another process trains it, its data have other identities now, or
            there are too few devices.
    """
    launch = plan_launch(devices, num_nodes)
    if not (run / "recipe.yaml").is_file():
        raise InputError(f"{run} is no run folder (it has no recipe.yaml): start one with vireid train … --out {run}")
    with _held(run, resumed=True):  # first, so that no other process goes on from here meanwhile
        recipe = load_recipe(run / "recipe.yaml")
        return _fit(recipe, run, console or Console(), launch, latest_checkpoint(run), nullcontext())


def open_records(recipe: Recipe) -> Records:
    """Open the data set that a recipe names."""
    return open_dataset(recipe.data.name, _require_root(recipe), **recipe.data.options)


def _fit(
    recipe: Recipe,
    run: Path,
    console: Console,
    launch: Launch,
    checkpoint: Path | None,
    held: AbstractContextManager[None],
) -> Path:
    """Train from the checkpoint on, if there is one; `held` keeps others out of the run folder once nothing is refused.

    Returns:
        The `last` bundle.
    """
    console.quiet = console.quiet or not is_rank_zero()
    if recipe.precision == "16" and default_device().type != "cuda":
        raise InputError("precision=16 needs a GPU: use bf16 or 32")
    seed_everything(recipe.seed, workers=True, verbose=False)
    records = open_records(recipe)
    named = recipe.validation.protocol
    protocol = find_protocols(() if named is None else (named,), recipe.data.name)[0]
    refines = recipe.encoder is not None
    with progress_bar("decoding images into the cache", console) as show:
        data = FeatureSequences(recipe, records, run, console) if refines else TrainingData(recipe, records)
        # the method first, so that what is refused leaves nothing behind
        method = _build(recipe, data, launch, trained=checkpoint is not None)
        card = _card(recipe, data, method)
        bundles = (RefinerBundles if refines else Bundles)(run, recipe, card, records, protocol, console)
        if is_rank_zero():
            bundles.check(show)
            image_source(data.records, recipe.data.image_size, recipe.data.cache, show)
    if isinstance(data, FeatureSequences):
        data.attach(method, trained=checkpoint is not None)
    if launch.size > 1 and recipe.sync_norm and default_device().type == "cuda":
        method = synchronise_norms(method, recipe, data.records.modality)
    precision = choose_precision(method, default_device(), recipe.precision)
    module = (RefinerModule if refines else TrainingModule)(method, recipe, precision, data.label_map.digest)
    _announce(recipe, data, bundles, precision, console)
    if notice := pose_notice(method, data.records.keypoints, len(data.records)):
        console.print(f"[yellow]without pose:[/yellow] {escape(notice)}", soft_wrap=True)
    with held, _quiet_lightning():
        if is_rank_zero() and checkpoint is None:
            write_text(run / "recipe.yaml", save_recipe(recipe))
            write_text(run / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
        log = open_log(run, trained_epochs(checkpoint))
        trainer = _trainer(recipe, run, log, data.steps, bundles, precision, launch)
        try:
            with one_voice(trainer), kept_memory(default_device()):
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:
            if error.code in (TERMINATED, INTERRUPTED):
                where = f"stopped in epoch {trainer.current_epoch + 1}"
                console.print(f"{where}: go on with `vireid train --resume {escape(str(run))}`", soft_wrap=True)
            raise
    return run / "last.safetensors"


def _require_new(run: Path) -> None:
    if not is_rank_zero():
        return
    require_folder_place(run)
    if (run / "recipe.yaml").exists():
        raise InputError(f"run folder {run} holds a run already: pass --resume {run}, or another --out")


@contextmanager
def _held(run: Path, resumed: bool) -> Iterator[None]:
    """Keep other trainings out of a run folder while the first process, for all, trains into it."""
    if not is_rank_zero():
        yield
        return
    with alone(run, busy=f"another process trains into run folder {run}: wait for its end, or pass another --out"):
        if resumed:
            remove_torn(run)
        else:
            _require_new(run)
        yield


def _build(recipe: Recipe, data: Data, launch: Launch, *, trained: bool) -> Method:
    """Build the method, and try what else can be refused: optimisers, batches, image size, feature to validate by.

    `trained` says that a checkpoint will bring the weights.
    """
    method = build(
        recipe.method,
        num_classes=len(data.label_map),
        backbone=recipe.backbone.model_copy(update={"weights": "none"}) if trained else recipe.backbone,
        terms={name: term.model_dump() for name, term in recipe.terms.items()},
        **recipe.options.model_dump(),
    )
    build_optimizers(method, recipe.optimizers)
    if launch.size > 1:
        require_equal_shares(recipe, data.records.modality)
    names = (
        ["global"] if isinstance(data, FeatureSequences) else _vectors(method, data.blank_batch(launch.size), recipe)
    )
    if recipe.validation.feature not in names:
        wanted = f"validation.feature={recipe.validation.feature}"
        raise InputError(f"{wanted}: method {recipe.method} has no such vector, use {', '.join(names)}")
    return method


def _vectors(method: Method, batch: Batch, recipe: Recipe) -> list[str]:
    """Check that the method can train on a black batch; return its features (N, D) by name, of two of the images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        method.eval()
        generator = torch.Generator().manual_seed(0)
        batch = recipe.augment(method.prepare(batch, generator), method.mean, method.std, generator)
        require_statistics(batch.modality)
        method.check(batch)
        features = method.features(batch.images[[0, -1]], torch.tensor(list(Modality)))
        method.train()
    return [name for name, value in features.items() if value.ndim == 2]


def _announce(recipe: Recipe, data: Data, bundles: Bundles, precision: Precision, console: Console) -> None:
    """Print what is about to be trained, and every count that differs from what was published or expected."""
    console.print(f"training {recipe.method} on {recipe.data.name}: {describe_split(data.records)}", soft_wrap=True)
    expected = "" if recipe.expected_steps is None else f" (the recipe expects {recipe.expected_steps})"
    console.print(
        f"{data.steps} batches per epoch{expected}, {recipe.epochs} epochs, labels {data.label_map.digest}, precision "
        f"{precision.name}, validation on {bundles.split} ({len(bundles.records)} images)",
        soft_wrap=True,
    )
    info = find_dataset(recipe.data.name)
    if info.counts:
        complete = open_dataset(info.name, _require_root(recipe), **dict(info.check_options))
        findings = list(count_findings(complete, info.counts))
        for finding in findings[:3]:
            console.print(f"[yellow]not the published data set:[/yellow] {escape(str(finding))}", soft_wrap=True)
        if len(findings) > 3:
            remedy = f"vireid data check {info.name} --root {recipe.data.root}"
            console.print(
                f"[yellow]and {len(findings) - 3} more counts differ:[/yellow] {escape(remedy)}", soft_wrap=True
            )


def _trainer(
    recipe: Recipe, run: Path, log: CSVLogger, steps: int, bundles: Bundles, precision: Precision, launch: Launch
) -> Trainer:
    scaling = loss_scaling(precision, default_device())
    return Trainer(
        accelerator="gpu" if default_device().type == "cuda" else "cpu",
        strategy=build_strategy(launch),
        devices=launch.devices,
        num_nodes=launch.num_nodes,
        precision=None if scaling else precision.plugin,
        max_epochs=recipe.epochs,
        logger=[log, TensorBoardLogger(run, name="", version="logs")],
        callbacks=[
            LossBar(),
            bundles,
            ModelCheckpoint(
                run / "checkpoints",
                filename="epoch-{epoch:04d}",
                auto_insert_metric_name=False,
                monitor="epoch",
                mode="max",
                save_top_k=recipe.keep_checkpoints,
                save_on_train_epoch_end=True,
            ),
        ],
        plugins=[AtomicCheckpointIO(), *scaling],
        enable_model_summary=False,
        log_every_n_steps=min(10, steps),
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
    )


def _card(recipe: Recipe, data: Data, method: Method) -> BundleCard:
    return BundleCard(
        method=recipe.method,
        options=recipe.options.model_dump(mode="json"),
        backbone=recipe.backbone,
        num_classes=len(data.label_map),
        image_size=recipe.data.image_size,
        mean=method.mean,
        std=method.std,
        training_data=f"{title_of(recipe.data.name, data.records.root)}: {describe_split(data.records)}",
        label_map=data.label_map.digest,
        precision=recipe.precision,
        seed=recipe.seed,
        commit=git_commit(),
        encoder=data.digest if isinstance(data, FeatureSequences) else "",
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notices about hardware, hooks and logging intervals; its errors still come through."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(level)


def _require_root(recipe: Recipe) -> Path:
    return require_root(recipe.data.name, recipe.data.root)
