"""Training through the same functions as the command line: files, resume, schedules, honest stops."""

import json
import re
import shutil
from functools import partial

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vireid.bundle import read_card
from vireid.data.datamodule import training_rows
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.evaluation.command import EvaluateRequest, run_evaluation
from vireid.files import alone
from vireid.methods import build
from vireid.methods.agw import AGW
from vireid.nn.backbone import LITE0
from vireid.precision import Precision, choose_precision, default_device
from vireid.recipe import OptimizerOptions, Recipe, Schedule, load_recipe, packaged_recipe, save_recipe
from vireid.records import LabelMap, Records
from vireid.training import resume, train
from vireid.training import run as run_module
from vireid.training.checkpoint import latest_checkpoint
from vireid.training.module import require_equal_labels
from vireid.training.optim import build_optimizers, limit_gradients, lr_factor, set_learning_rates
from vireid.training.precision import PhasePrecision, loss_scaling
from vireid.weights import SHIPPED

BLUR = "augment.infrared.jitter_or_blur"
ONE_INFRARED = "sampling.identities=1 sampling.visible=2 sampling.infrared=1"
AGW_CM = Schedule()
AGW_SM = Schedule(warmup_epochs=10, warmup_start=0.01, milestones=(39, 69))


@pytest.mark.parametrize(
    ("schedule", "base", "expected"),
    [
        (AGW_CM, 0.1, {0: 0.01, 5: 0.06, 9: 0.1, 19: 0.1, 20: 0.01, 49: 0.01, 50: 0.001, 80: 0.001}),
        (
            AGW_SM,
            3.5e-4,
            {0: 3.815e-5, 1: 7.28e-5, 4: 1.7675e-4, 8: 3.1535e-4, 9: 3.5e-4, 38: 3.5e-4, 39: 3.5e-5, 69: 3.5e-6},
        ),
        (Schedule(kind="cosine", warmup_epochs=1, final=0.0), 1.0, {0: 1.0, 1: 1.0, 6: 0.5}),
        (
            Schedule(warmup_epochs=0, milestones=(20, 50, 100), gamma=(0.5, 0.2, 0.1)),
            0.1,
            {0: 0.1, 20: 0.05, 50: 0.01, 100: 0.001},
        ),
    ],
)
def test_learning_rates(schedule, base, expected):
    assert {e: base * lr_factor(schedule, e, 11) for e in expected} == pytest.approx(expected)


def test_halving_counts_steps():
    schedule = Schedule(kind="halving", halve_every=25_000)
    assert [1e-3 * lr_factor(schedule, 0, 1, step) for step in (0, 24_999, 25_000, 75_000)] == pytest.approx(
        [1e-3, 1e-3, 5e-4, 1.25e-4]
    )


def test_parameter_groups_get_their_learning_rates():
    method = build("agw", num_classes=2, backbone={"weights": "none"}, center_weight=5e-4)
    recipes = {
        "main": OptimizerOptions(lr=0.1, lr_scale={"backbone": 0.1}),
        "centers": OptimizerOptions(lr=0.5, momentum=0, weight_decay=0, scheduled=False),
    }
    optimizers = build_optimizers(method, recipes)
    set_learning_rates(optimizers, recipes, 0.5)
    rates = {group["name"]: group["lr"] for optimizer in optimizers.values() for group in optimizer.param_groups}
    assert rates == pytest.approx({"backbone": 0.005, "head": 0.05, "classifier": 0.05, "centers": 0.5})
    moved = build_optimizers(method, {**recipes, "rows": OptimizerOptions(kind="adamw", takes=("classifier",))})
    groups = {name: [group["name"] for group in optimizer.param_groups] for name, optimizer in moved.items()}
    assert groups == {"main": ["backbone", "head"], "centers": ["centers"], "rows": ["classifier"]}
    with pytest.raises(InputError, match="no parameter group trunk"):
        build_optimizers(method, {**recipes, "main": OptimizerOptions(lr_scale={"trunk": 0.1})})
    with pytest.raises(InputError, match=r"lacks optimizers\.centers"):
        build_optimizers(method, {"main": OptimizerOptions()})


def test_gradient_limits_of_groups_and_of_all():
    one, bias, two = (nn.Parameter(torch.zeros(n)) for n in (1, 1, 2))
    groups = [(one, "fusion", 5.0), (bias, "fusion", 5.0), (two, "rest", None)]  # as at another rate for biases
    optimizer = torch.optim.SGD([{"params": [p], "name": name, "clip": clip} for p, name, clip in groups], lr=1.0)
    for limit, expected in ((None, [3, 4, 6, 8]), (5.0, [1.341641, 1.788854, 2.683282, 3.577709])):
        one.grad, bias.grad, two.grad = torch.tensor([30.0]), torch.tensor([40.0]), torch.tensor([6.0, 8])
        limit_gradients(optimizer, limit)
        assert torch.cat([one.grad, bias.grad, two.grad]).tolist() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_limited_after_a_loss_scaler(tiny_recipe, tmp_path, monkeypatch):
    """float16 trains on a scaled loss: the limit is compared with the gradients' own size."""
    scaled = partial(MixedPrecision, "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    original, norms = run_module.Trainer, []

    def trainer(*, precision, plugins, **settings):
        assert settings["accelerator"] == default_device().type.replace("cuda", "gpu")  # never Apple's by "auto"
        return original(plugins=[*plugins, scaled()], **settings)

    def note(optimizer, *_):
        grads = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.cat(grads).norm().item())

    monkeypatch.setattr(run_module, "Trainer", trainer)
    hook = register_optimizer_step_pre_hook(note)
    try:
        train(load_recipe(tiny_recipe, ["clip_norm=0.5", "epochs=1"]), tmp_path / "run")
    finally:
        hook.remove()
    assert norms
    assert all(norm == pytest.approx(0.5, rel=1e-3) for norm in norms)


def test_a_phase_s_optimisers_undo_the_scale_of_its_backward_pass(tiny_recipe, tmp_path, monkeypatch):
    """The scaler doubles at each update: both optimisers of a batch must step before one."""
    scaler, original, scales = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1), run_module.Trainer, []

    def trainer(*, precision, plugins, **settings):
        return original(plugins=[*plugins, PhasePrecision("16-mixed", "cpu", scaler)], **settings)

    monkeypatch.setattr(run_module, "Trainer", trainer)
    hook = register_optimizer_step_pre_hook(lambda *_: scales.append(scaler.get_scale()))
    rows = {"kind": "sgd", "lr": 0.01, "takes": ["classifier"]}
    try:
        optimizers = {**tiny_recipe["optimizers"], "rows": rows}
        train(load_recipe({**tiny_recipe, "epochs": 1, "optimizers": optimizers}), tmp_path / "run")
    finally:
        hook.remove()
    assert scales == [4, 4, 8, 8]


def test_an_optimiser_without_gradients_takes_no_step_in_float16():
    plugin = PhasePrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))])
    assert plugin.optimizer_step(optimizer, None, lambda: None) is None
    plugin.end_phase()


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "16"), ((8, 0), "bf16")])
def test_gpus_that_only_emulate_bfloat16_train_in_float16(capability, name, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert choose_precision(torch.nn.Conv2d(3, 4, 1), torch.device("cuda")).name == name


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA is not available")
@pytest.mark.parametrize(("name", "device", "scaled"), [("16", "cuda", 1), ("bf16", "cpu", 0), ("bf16", "cuda", 0)])
def test_only_float16_scales_losses(name, device, scaled):
    plugins = loss_scaling(Precision(name), torch.device(device))
    assert [type(plugin) for plugin in plugins] == [PhasePrecision] * scaled


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("optimizers.main.lr_scale.trunk=2", "no parameter group trunk"),
        ("validation.feature=maps", "validation.feature=maps: method agw has no such vector, use global, pooled"),
        ("validation.protocol=sysu-all", "protocol sysu-all is for sysu_mm01, not manifest: use cross-ir2vis or"),
        (f"{BLUR}.p=1 {BLUR}.radius=32", "radius=32 is too wide for images of 64x32 pixels"),
        ("method=cmlspge", "6 stripes do not divide the 4 rows of the feature map"),
        ("method=msclnet", "6 stripes do not divide the 4 rows of the feature map"),
        ("optimizers.main.phase=head", "optimizers.main.phase=head: the method's steps have other phases: main"),
        ("sampling.identities=1 sampling.visible=1 sampling.infrared=0", "a batch has one image on a device, of which"),
        (f"method=cmlspge options.stripes=2 options.enhance=bn_per_modality {ONE_INFRARED}", "one infrared image on a"),
        (f"method=msclnet options.stripes=2 options.hat_classifier=separate {ONE_INFRARED}", "one infrared image on a"),
        ("method=caj options.consistency_weight=1", "options.consistency_weight pairs .* rows of a batch with 0 of"),
    ],
)
def test_a_refused_training_leaves_nothing(setting, sentence, tiny_recipe, tmp_path):
    with pytest.raises(InputError, match=sentence):
        train(load_recipe(tiny_recipe, setting.split()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "split", "sentence"),
    [
        (["visible_8_0", "gone_8_0"], "auto", r"image .*gone_8_0\.jpg is missing"),
        (["infrared_8_0"], "auto", "cross-ir2vis finds no gallery"),
        (["infrared_8_0", "visible_9_0"], "auto", "no query sees a true match"),
        ([], "test", "validation.split=test: manifest has no image of it for cross-ir2vis, use auto or add some"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_at_the_start(names, split, sentence, tiny_recipe, manifest, tmp_path):
    data = shutil.copytree(manifest, tmp_path / "data")
    rows = [row for row in (data / "manifest.csv").read_text().splitlines() if row.endswith(("split", ",train"))]
    seen = {"visible": "1,visible", "infrared": "3,infrared", "gone": "3,infrared"}
    rows += [f"{name}.jpg,{name.split('_')[1]},{seen[name.split('_')[0]]},test" for name in names]
    (data / "manifest.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=sentence):
        train(load_recipe(tiny_recipe, [f"validation.split={split}"], root=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["visible_7_0", "visible_8_0"])
def test_without_the_cache_images_are_looked_at_too(name, tiny_recipe, manifest, tmp_path):
    """One of the training is missing, one of the validation is torn."""
    data = shutil.copytree(manifest, tmp_path / "data")
    image = data / f"{name}.jpg"
    content = image.read_bytes()
    image.unlink()
    if "8" in name:
        image.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"image .*{name}"):
        train(load_recipe(tiny_recipe, ["data.cache=false"], root=data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("file", "file cannot be made, as a file stands in its way"),
        ("file/new", "file/new cannot be made, as a file stands in its way"),
        ("new/run", "permission denied, change its permissions or name another place"),
    ],
)
def test_a_run_folder_that_cannot_be_is_refused_before_the_data(place, sentence, tiny_recipe, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(run_module, "open_records", None)
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=sentence):
        train(load_recipe(tiny_recipe), tmp_path / place)


def test_a_run_keeps_whole_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(run_module, "_fit", lambda recipe, *_, **__: recipe)
    monkeypatch.chdir(tmp_path)
    given = {"data": {"name": "manifest", "root": "~/data"}}
    for weights, kept in (("trunk.pth", str(tmp_path / "trunk.pth")), ("none", "none"), (SHIPPED, SHIPPED)):
        recipe = train(load_recipe({**given, "backbone": {"weights": weights}}), tmp_path / "run")
        assert (recipe.data.root, recipe.backbone.weights) == (tmp_path / "data", kept)


def test_junk_is_no_training_identity():
    records = Records.build(
        ".", list("abcd"), [7, -1, 7, 8], [1] * 4, [0, 0, 1, 1], ["train", "train", "train", "test"]
    )
    assert training_rows(records, Recipe()).path.tolist() == ["a", "c"]
    with pytest.raises(InputError, match="no training images"):
        training_rows(records.take([1, 3]), Recipe())


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("precision=64", "precision: Input should be 'auto', '32', 'bf16' or '16'"),
        ("terms=3", "terms=3: name loss terms with their options"),
        ("terms=[1]", "terms=[1]: name loss terms"),
        ("method=[a]", "method=['a']: name a method, such as agw"),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("data.image_size=[0,5]", "data.image_size.0: Input should be greater than 0"),
        ("optimizers.main.betas=[0.9,2]", "optimizers.main.betas.1: Input should be less than 1"),
        ("optimizers.main.momentum=-1", "optimizers.main.momentum: Input should be greater than or equal to 0"),
        ("schedule.gamma=-0.1", "Input should be greater than 0"),
        ("schedule.gamma=[0.5,0.2,0.1]", "schedule: 3 factors gamma for 2 milestones: give one for each"),
        ("schedule.milestones=[50,20]", "milestones: name the epochs in order, such as [20, 50]"),
        ("schedule.milestones=[-1,20]", "milestones.0: Input should be greater than or equal to 0"),
        ("augment.visible.erasing.area=[-1,-0.5]", "area.0: Input should be greater than or equal to 0"),
        ("augment.infrared.jitter_or_blur.sigma=[0,0]", "sigma.0: Input should be greater than 0"),
        ("epochs=2026-13-01", "the value is not YAML"),
    ],
)
def test_wrong_values_get_one_sentence(setting, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_recipe({}, [setting])


@pytest.mark.parametrize(
    ("method", "place", "cause", "idle"),
    [
        ("agw", "options", "non_local=false", "nl_width=half"),
        ("agw", "options", "non_local=false", "nl_affinity=softmax"),
        ("caj", "options", "pool=average", "gem_p=2"),
        ("agw", "options", "triplet=wrt", "margin=0.5"),
        ("maum", "options", "variant=global", "stripes=4"),
        ("maum", "options", "variant=global", "stripe_dim=128"),
        ("maum", "options", "variant=part", "neck=none"),
        ("maum", "options", "pool=average", "gem_p=2"),
        ("maum", "options", "triplet_weight=0", "margin=0.5"),
        ("nformer", "options", "neighbor_mode=per_modality", "neighbors=8"),
        ("cmlspge", "options", "attention=cbam", "nl_width=half"),
        ("cmlspge", "options", "pa_mode=slice", "mine_by=global"),
        ("cmlspge", "options", "cell=aligned", "d_reduce=sum"),
        ("spot", "options", "asr=false", "fusion=false"),
        ("spot", "options", "tpi=false", "fusion=false"),
        ("spot", "options", "pose=template", "pose_dropout=0.1"),
        ("spot", "options", "triplet=wrt", "margin=0.5"),
        ("cmtr", "options", "triplet=soft_margin", "wrt=exact"),
        ("agw", "schedule", "kind=steps", "final=0.1"),
        ("agw", "schedule", "kind=cosine", "milestones=[9]"),
        ("agw", "schedule", "kind=cosine", "gamma=0.5"),
        ("agw", "schedule", "kind=halving", "warmup_epochs=1"),
        ("agw", "optimizers.main", "kind=sgd", "betas=[0.5,0.9]"),
        ("agw", "optimizers.main", "kind=adamw", "momentum=0.5"),
        ("agw", "optimizers.main", "kind=adam", "nesterov=false"),
    ],
)
def test_options_that_would_do_nothing_are_refused(method, place, cause, idle):
    settings = [f"method={method}", f"{place}.{cause}"]
    load_recipe({}, settings)
    sentence = f"{idle.partition('=')[0]} would do nothing with {cause}: leave it out"
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_recipe({}, [*settings, f"{place}.{idle}"])


def test_pose_dropout_wants_a_branch_that_sees_poses():
    for blind in ("asr=false", "asr_input=appearance"):
        with pytest.raises(InputError, match=f"pose_dropout would do nothing with tpi=false and {blind}"):
            load_recipe({"method": "spot"}, [f"options.{o}" for o in (blind, "tpi=false", "pose_dropout=0.1")])


@pytest.mark.parametrize("name", [LITE0, "vit_tiny_patch16_224"])
def test_only_resnets_can_lack_the_stem_s_relu(name):
    with pytest.raises(InputError, match=f"stem_relu=false is of ResNets: set it to true for backbone.name={name}"):
        build("cmtr", num_classes=2, backbone={"name": name, "weights": "none", "stem_relu": False})


def test_a_precision_may_be_a_number():
    assert [load_recipe({}, [f"precision={bits}"]).precision for bits in (32, 16, "'32'")] == ["32", "16", "32"]


def test_a_run_leaves_what_it_promises(run):
    assert {p.name for p in run.iterdir()} >= {
        "recipe.yaml",
        "environment.json",
        "logs",
        "checkpoints",
        "last.safetensors",
    }
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == ["epoch-0000.ckpt", "epoch-0001.ckpt"]
    assert {"torch", "timm"} <= set(json.loads((run / "environment.json").read_text())["packages"])
    header = (run / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "id", "triplet", "val/mAP", "val/rank1"} <= set(header)
    assert save_recipe(load_recipe(run / "recipe.yaml")) == (run / "recipe.yaml").read_text()


def test_a_checkpoint_needs_no_start_weights(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    latest_checkpoint(folder).unlink()
    recipe = load_recipe(run / "recipe.yaml", ["backbone.weights=gone.pth"])
    (folder / "recipe.yaml").write_text(save_recipe(recipe))
    resume(folder)
    expected, found = load_file(run / "last.safetensors"), load_file(folder / "last.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_resumed_run_follows_its_recipe_as_it_stands(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    latest_checkpoint(folder).unlink()
    recipe = load_recipe(run / "recipe.yaml", ["optimizers.main.lr=1e-5", "optimizers.main.weight_decay=0"])
    (folder / "recipe.yaml").write_text(save_recipe(recipe))
    resume(folder)
    (state,) = torch.load(latest_checkpoint(folder), weights_only=True)["optimizer_states"]
    assert {(group["base_lr"], group["weight_decay"]) for group in state["param_groups"]} == {(1e-5, 0)}
    assert {int(moments["step"]) for moments in state["state"].values()} == {4}


@pytest.mark.parametrize("start", [train, lambda recipe, folder: resume(folder)])
def test_one_process_trains_into_a_folder(start, run, tmp_path):
    folder = tmp_path / "run"
    with alone(folder):
        if start is not train:
            (folder / "recipe.yaml").write_bytes((run / "recipe.yaml").read_bytes())
            (folder / ".last.safetensors.17.tmp").touch()
        before = set(folder.iterdir())
        with pytest.raises(InputError, match=r"another process trains into run folder .*run: wait for its end, or"):
            start(load_recipe(run / "recipe.yaml"), folder)
        assert set(folder.iterdir()) == before


@pytest.mark.parametrize("pid", ["7", "0"])
def test_a_run_goes_on_with_its_own_identities(pid, run, manifest, tmp_path):
    """One identity has another number, or one of its images is of a new one."""
    data, folder = shutil.copytree(manifest, tmp_path / "data"), shutil.copytree(run, tmp_path / "run")
    rows = (data / "manifest.csv").read_text()
    renumbered = rows.replace(f",{pid},", ",70,") if pid == "7" else rows.replace(f",{pid},", ",70,", 1)
    (data / "manifest.csv").write_text(renumbered)
    (folder / "recipe.yaml").write_text(save_recipe(load_recipe(folder / "recipe.yaml", root=data)))
    with pytest.raises(InputError, match="has other training identities than the run so far: restore it or start"):
        resume(folder)


def test_half_written_checkpoints_are_never_picked_up(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert latest_checkpoint(tmp_path) is None
    (folder / "epoch-0003.ckpt").write_bytes(b"")
    (folder / ".epoch-0004.ckpt.17.tmp").write_bytes(b"")
    (folder / "epoch-0002.ckpt").write_bytes(b"")
    assert latest_checkpoint(tmp_path).name == "epoch-0003.ckpt"


def test_a_run_in_another_precision_is_evaluated_in_it(tiny_recipe, tmp_path, monkeypatch):
    seen, embed = [], Embedder.features
    monkeypatch.setattr(
        Embedder, "features", lambda self, *a, **k: seen.append(self.precision.name) or embed(self, *a, **k)
    )
    bundle = train(load_recipe(tiny_recipe, ["precision=bf16", "epochs=1"]), tmp_path / "run")
    assert read_card(bundle).precision == "bf16"
    results = {
        given: run_evaluation(EvaluateRequest((tmp_path / "run",), precision=given))[0] for given in (None, "float32")
    }
    assert [result.stamp["precision"] for result in results.values()] == ["bf16", "32"]
    assert seen == ["bf16", "bf16", "32"]


def test_a_step_draws_other_numbers_than_its_augmentation(tiny_recipe, tmp_path, monkeypatch):
    seeds = {"augmentation": [], "step": []}
    prepare, losses = AGW.prepare, AGW.losses

    def note_prepare(self, batch, generator):
        seeds["augmentation"].append(generator.initial_seed())
        return prepare(self, batch, generator)

    def note_losses(self, batch, phase="main"):
        seeds["step"].append(torch.initial_seed())
        return losses(self, batch, phase)

    monkeypatch.setattr(AGW, "prepare", note_prepare)
    monkeypatch.setattr(AGW, "losses", note_losses)
    train(load_recipe(tiny_recipe), tmp_path / "run")
    drawn = [*seeds["augmentation"][1:], *seeds["step"]]  # the first is of the black batch
    assert len(set(drawn)) == len(drawn) == 2 * len(seeds["step"])


def test_nan_stops_the_run_and_names_the_term(tiny_recipe, tmp_path, monkeypatch):
    losses = AGW.losses
    monkeypatch.setattr(AGW, "losses", lambda self, *a: {**losses(self, *a), "id": torch.tensor(float("nan"))})
    with pytest.raises(InputError, match=r"loss term id became nan in epoch 0, batch 0: .* in a new run$"):
        train(load_recipe(tiny_recipe), tmp_path / "run")


def test_broken_weights_take_no_good_one_s_place(tiny_recipe, tmp_path, monkeypatch):
    """A gradient can be infinite where the loss is not: after the last step of an epoch, no loss would tell."""

    def break_second_epoch(self):
        state["steps"] += 1
        if state["steps"] == 4:
            next(self.parameters()).data.fill_(torch.nan)

    state, folder = {"steps": 0}, tmp_path / "run"
    monkeypatch.setattr(AGW, "after_step", break_second_epoch)
    sentence = r"\S+ is not finite after epoch 1: .*, in a new run; the checkpoint before is still good"
    with pytest.raises(InputError, match=sentence):
        train(load_recipe(tiny_recipe), folder)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["epoch-0000.ckpt"]
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "last.safetensors").values())


def test_ranks_with_other_identities_are_found():
    digest = int(LabelMap.of([3, 5, 9]).digest, 16) >> 1
    require_equal_labels(torch.tensor([digest, digest]))
    with pytest.raises(InputError, match="rank 1 sees other training identities than rank 0"):
        require_equal_labels(torch.tensor([digest, int(LabelMap.of([3, 5]).digest, 16) >> 1]))


def test_labels_are_the_places_among_the_sorted_identities():
    labels = LabelMap.of([9, 3, 5, 3])
    assert (labels, len(labels)) == (LabelMap((3, 5, 9)), 3)
    assert LabelMap((3, 5, 9)).labels([5, 9, 5]).tolist() == [1, 2, 1]
    with pytest.raises(KeyError, match="4"):
        labels.labels([3, 4])


def test_every_shipped_recipe_is_valid():
    folder = packaged_recipe("agw", "sysu_mm01").parents[1]
    recipes = sorted(folder.glob("*/*.yaml"))
    assert recipes
    for path in recipes:
        recipe = load_recipe(path)
        assert recipe.backbone.name == LITE0 or "." in recipe.backbone.name  # timm's tag says which weights
        backbone = {"name": "resnet18", "weights": "none"}
        options = recipe.options.model_dump()
        method = build(recipe.method, num_classes=3, backbone=backbone, terms=recipe.terms, **options)
        build_optimizers(method, recipe.optimizers)


def test_the_default_recipe_is_agw_as_published():
    assert load_recipe(packaged_recipe("agw", "sysu_mm01")).optimizers["main"] == OptimizerOptions(
        kind="sgd", lr=0.1, lr_scale={"backbone": 0.1}
    )
    assert Recipe().epochs == 81
