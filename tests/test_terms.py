"""Loss terms that a recipe adds to a method."""

import pytest
import torch

import vireid
from batches import make_batch
from vireid.errors import InputError
from vireid.losses import ProxyMemory
from vireid.methods import METHODS, build
from vireid.recipe import load_recipe, packaged_recipe, save_recipe
from vireid.training import train
from vireid.training.optim import build_optimizers

MEMORY = {"memory": {"stage1_epochs": 0, "snapshots_visible": 2, "snapshots_infrared": 2}}
HOSTS = sorted(name for name, method in METHODS.items() if method.hosts_terms)


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_add_the_terms_losses_and_train_its_parameters(name):
    torch.manual_seed(0)
    backbone = {"name": "resnet18", "weights": "none"}
    method = build(name, num_classes=2, backbone=backbone, terms=MEMORY)
    plain = build(name, num_classes=2, backbone=backbone)
    added = {f"memory_{n}" for n in ("id_visible", "id_infrared", "visible_to_infrared", "infrared_to_visible")}
    batch = make_batch(size=(96, 32))
    assert set(method.losses(batch)) - set(plain.losses(batch)) == added
    method.on_epoch_start(0)
    assert float(method.losses(batch)["memory_visible_to_infrared"].detach()) > 0
    method.after_step()
    assert set(method.statistics()) >= {"memory_diversity_visible", "memory_diversity_infrared"}
    optimizers = build_optimizers(method, load_recipe({"method": name}).optimizers)
    trained = {id(p) for optimizer in optimizers.values() for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in method.terms.parameters()} <= trained


def test_terms_are_checked_and_resolved_in_recipes():
    recipe = load_recipe({"method": "agw", "terms": {"memory": {"alpha": 16}}}, ["terms.memory.delta=0.2"])
    resolved = recipe.terms["memory"]
    assert (resolved.alpha, resolved.delta, resolved.weight) == (16, 0.2, 1.0)
    assert "snapshots_visible: 32" in save_recipe(recipe)
    assert load_recipe(packaged_recipe("caj_maum_agw", "synthetic")).terms["memory"].stage1_epochs == 2


@pytest.mark.parametrize(
    ("recipe", "place"),
    [({"method": "agw", "terms": {"memory": {}}}, "terms.memory"), ({"method": "maum"}, "options.memory")],
)
def test_memories_must_start_within_the_training(recipe, place):
    with pytest.raises(InputError, match=f"{place}.stage1_epochs=20 leaves the memories empty in all epochs=20"):
        load_recipe(recipe, ["epochs=20"])
    assert load_recipe(recipe, ["epochs=20", f"{place}.weight=0"])


@pytest.mark.parametrize(
    ("method", "terms", "sentence"),
    [
        ("maum", {"memory": {}}, r"method maum takes no extra loss terms \(memory\): drop terms or use agw, caj"),
        ("agw", {"memori": {}}, "unknown loss term 'memori' in terms: choose one of memory"),
        ("agw", {"memory": {"alfa": 1}}, "terms.memory: alfa: unknown option"),
        ("agw", {"memory": {"alpha": -1}}, "terms.memory: alpha"),
    ],
)
def test_mistakes_in_terms_are_named(method, terms, sentence):
    for call in (
        lambda: build(method, num_classes=2, backbone={"weights": "none"}, terms=terms),
        lambda: load_recipe({"method": method, "terms": terms}),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


def test_the_combined_recipe_trains_and_its_bundle_drops_the_terms(tiny_recipe, tmp_path, monkeypatch):
    shipped = load_recipe(packaged_recipe("caj_maum_agw", "synthetic"))
    values = {**tiny_recipe, "epochs": 1, "method": shipped.method, "terms": MEMORY}
    values["augment"] = shipped.augment.model_dump(mode="json")
    sizes, forward = [], ProxyMemory.forward
    monkeypatch.setattr(ProxyMemory, "forward", lambda self, f, batch: sizes.append(len(f)) or forward(self, f, batch))
    train(load_recipe(values), tmp_path / "run")
    assert set(sizes) == {4 * (2 + 2 + 2)}
    method = vireid.load(tmp_path / "run" / "last.safetensors").method
    assert type(method) is METHODS["agw"]
    assert not method.terms
