from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from wsseg import console
from wsseg.atomic import read_jsonl
from wsseg.errors import DataError, RecipeError
from wsseg.training.checkpoint import load_weights
from wsseg.training.data import epoch_order
from wsseg.training.loop import fit


@pytest.fixture
def train(tiny, tmp_path):
    """Train the tiny network; every argument of the configuration and of fit can be changed."""

    def run(net=None, data=None, *, out="run", seed=1, hooks=None, **changes):
        return fit(
            net or tiny.net(),
            data or tiny.Data(),
            tiny.config(**changes),
            tmp_path / out,
            seed=seed,
            title="tiny",
            **(hooks or {}),
        )

    return run


def test_loss_falls_and_every_epoch_is_logged(train, tmp_path):
    result = train(epochs=40, lr=0.3)
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(1, 41))
    assert [line["step"] for line in lines] == list(range(3, 121, 3))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[0].keys() == {"epoch", "step", "lr", "loss", "mse", "grad_norm", "seconds"}
    assert (result.epochs, result.steps, result.kept) == (40, 120, "last")
    assert not result.module.training


def test_one_epoch_is_what_plain_torch_computes(train, tiny):
    data, net = tiny.Data(), tiny.net(dropout=0.0)
    result = train(net, data, epochs=1, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant")
    reference = tiny.net(dropout=0.0).double()
    order = epoch_order(12, 1, 0)
    assert data.served == order.tolist()
    from wsseg.training.data import Draw, ItemDataset

    items = ItemDataset(tiny.Data(), seed=1)
    for start in range(0, 12, 4):
        chosen = [items[Draw(0, int(index), 0)] for index in order[start : start + 4]]
        images = torch.from_numpy(np.stack([item["image"] for item in chosen])).double()
        targets = torch.tensor([float(item["target"]) for item in chosen]).double()
        reference.zero_grad()
        reference.loss({"image": images, "target": targets})["loss"].backward()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter -= 0.1 * parameter.grad
    for name, expected in reference.state_dict().items():
        torch.testing.assert_close(
            result.module.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-6
        )


def test_accumulating_gives_the_weights_of_the_large_batch(train, tiny):
    whole = train(tiny.net(dropout=0.0), out="whole", batch_size=12, epochs=4)
    parts = train(tiny.net(dropout=0.0), out="parts", batch_size=3, accumulate_steps=4, epochs=4)
    assert whole.steps == parts.steps == 4
    for name, expected in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], expected)


def test_loading_processes_do_not_change_the_weights(train, tiny):
    alone = train(out="alone", num_workers=0)
    helped = train(out="helped", num_workers=2)
    assert tiny.same(tiny.weights(alone.module), tiny.weights(helped.module))


def test_seed_decides_the_result(train, tiny):
    first = tiny.weights(train(out="a", seed=1).module)
    assert tiny.same(first, tiny.weights(train(out="b", seed=1).module))
    assert not tiny.same(first, tiny.weights(train(out="c", seed=2).module))


def test_global_generators_are_left_alone(train, tiny):
    net = tiny.net()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(net)
    assert torch.equal(torch.rand(2), expected)


def test_finished_training_is_not_repeated(train, tiny, tmp_path):
    first = train()
    data = tiny.Data()
    again = train(tiny.Net(), data)
    assert again.was_done
    assert not first.was_done
    assert data.served == []
    assert tiny.same(tiny.weights(first.module), tiny.weights(again.module))
    assert (again.epochs, again.steps, again.kept) == (first.epochs, first.steps, first.kept)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"last.safetensors", "metrics.jsonl", "done.json"}


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"seed": 2}, {"hooks": {"fingerprint": "new"}}])
def test_other_settings_start_over(train, tiny, tmp_path, change):
    train()
    data = tiny.Data()
    again = train(data=data, **change)
    assert not again.was_done
    assert len(data.served) == 36
    assert len(read_jsonl(tmp_path / "run" / "metrics.jsonl")) == 3


def test_number_of_workers_does_not_start_over(train):
    train()
    assert train(num_workers=1).was_done


def test_lost_weights_are_trained_again(train, tmp_path):
    train()
    (tmp_path / "run" / "last.safetensors").unlink()
    assert not train().was_done
    assert train().was_done


def test_max_steps_ends_within_an_epoch_and_ends_the_schedule(train, tmp_path):
    result = train(max_steps=4, epochs=5, poly_power=1.0, lr=0.1)
    assert (result.steps, result.epochs) == (4, 2)
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [line["lr"] for line in lines] == pytest.approx([0.05, 0.025])
    assert not result.stopped_early


def test_best_epoch_is_kept(train, tiny, tmp_path):
    scores = iter([0.2, 0.9, float("nan"), 0.5])
    snapshots = []

    def validate(module):
        assert not module.training
        assert not torch.is_grad_enabled()
        snapshots.append(tiny.weights(module))
        return {"miou": next(scores)}

    result = train(epochs=4, hooks={"validate": validate, "monitor": "miou"})
    assert (result.kept, result.best_epoch, result.best_value) == ("best", 2, 0.9)
    assert tiny.same(tiny.weights(result.module), snapshots[1])
    logged = [line["miou"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert logged == [0.2, 0.9, None, 0.5]
    last = tiny.net()
    load_weights(tmp_path / "run" / "last.safetensors", last)
    assert tiny.same(tiny.weights(last), snapshots[3])


def test_smaller_can_be_better(train):
    losses = iter([0.5, 0.1, 0.3])
    hooks = {"validate": lambda module: {"val_loss": next(losses)}, "monitor": "-val_loss"}
    result = train(hooks=hooks)
    assert (result.best_epoch, result.best_value) == (2, 0.1)


def test_last_epoch_can_be_kept_although_another_was_best(train):
    scores = iter([0.9, 0.1, 0.2])
    hooks = {"validate": lambda module: {"miou": next(scores)}, "monitor": "miou"}
    result = train(keep="last", hooks=hooks)
    assert (result.kept, result.best_epoch) == ("last", 1)


def test_training_stops_when_validation_no_longer_improves(train):
    scores = iter([0.1, 0.6, 0.5, 0.6, 0.9])
    hooks = {"validate": lambda module: {"miou": next(scores)}, "monitor": "miou"}
    result = train(epochs=50, early_stop_patience_epochs=2, hooks=hooks)
    assert (result.epochs, result.best_epoch, result.stopped_early) == (4, 2, True)


def test_without_validation_the_last_weights_are_kept_and_it_is_said(train, monkeypatch):
    said = []
    monkeypatch.setattr(console, "info", said.append)
    result = train(early_stop_patience_epochs=1, epochs=2)
    assert (result.epochs, result.kept) == (2, "last")
    assert said[:2] == [
        "tiny: nothing is validated, so the last weights are kept",
        "tiny: nothing is validated, so training does not stop early",
    ]


def test_average_is_validated_and_kept_instead_of_the_weights(train, tiny):
    snapshots = []

    def validate(module):
        snapshots.append(tiny.weights(module))
        return {"miou": 0.0}

    averaged = train(out="ema", ema_decay=0.9, hooks={"validate": validate})
    plain = train(out="plain", hooks={"validate": validate})
    assert tiny.same(tiny.weights(averaged.module), snapshots[2])
    assert tiny.same(tiny.weights(plain.module), snapshots[5])
    assert not tiny.same(snapshots[2], snapshots[5])


def test_callback_gets_the_lines_of_the_log(train, tmp_path):
    seen = []
    train(hooks={"on_epoch": seen.append})
    assert seen == read_jsonl(tmp_path / "run" / "metrics.jsonl")


def test_network_is_told_of_every_epoch_before_its_items(train, tiny):
    class Told(tiny.Net):
        def on_epoch_start(self, epoch):
            told.append((epoch, len(data.served)))

    told, data = [], tiny.Data()
    train(Told(), data)
    assert told == [(0, 0), (1, 12), (2, 24)]


def test_balanced_drawing_serves_items_by_weight(train, tiny):
    class Weighted(tiny.Data):
        def sample_weights(self):
            return np.array([1.0] + [0.0] * 11)

    data = Weighted()
    train(data=data, class_balanced_sampling=True)
    assert set(data.served) == {0}


def test_diverging_loss_names_epoch_and_update_and_keeps_the_last_checkpoint(train, tiny, tmp_path):
    class Diverging(tiny.Net):
        def loss(self, batch):
            steps.append(1)
            terms = super().loss(batch)
            return {**terms, "loss": terms["loss"] * (float("nan") if len(steps) == 5 else 1)}

    steps = []
    with pytest.raises(
        RecipeError, match=r"loss became nan in epoch 2, update 5 \(.*Try a smaller lr"
    ):
        train(Diverging())
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    steps.append(1)
    assert train(Diverging()).epochs == 3


def test_gradient_that_is_not_finite_is_refused_before_the_step(train, tiny):
    class Steep(tiny.Net):
        def loss(self, batch):
            terms = super().loss(batch)
            return {"loss": terms["loss"] + (0 * self.head.bias).sqrt().sum()}

    net = Steep()
    torch.nn.init.zeros_(net.head.bias)
    before = tiny.weights(net)
    with pytest.raises(RecipeError, match="gradient became nan"):
        train(net)
    assert tiny.same(before, tiny.weights(net))


def test_clipping_bounds_the_step(train, tiny):
    net = tiny.net()
    before = tiny.weights(net)
    changes = {"epochs": 1, "batch_size": 12, "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0}
    after = tiny.weights(train(net, max_grad_norm=1e-3, **changes).module)
    moved = sum(float((after[name] - before[name]).square().sum()) for name in before) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_networks_that_break_the_contract_are_told(train, tiny):
    class NoTotal(tiny.Net):
        def loss(self, batch):
            return {"mse": super().loss(batch)["mse"]}

    with pytest.raises(ValueError, match='total as "loss"'):
        train(NoTotal())
    with pytest.raises(ValueError, match=r"'lr'.*are logged by the training"):
        train(hooks={"validate": lambda module: {"lr": 1.0}})
    with pytest.raises(ValueError, match='Expected "miou" to be logged'):
        train(hooks={"validate": lambda module: {"iou": 1.0}, "monitor": "miou"})


def test_bad_item_ends_the_training_with_its_name(train, tiny):
    class Bad(tiny.Data):
        def item(self, index, rng):
            if index == 5:
                raise DataError("cannot read five.png")
            return super().item(index, rng)

    with pytest.raises(DataError, match=r"item 5: cannot read five\.png"):
        train(data=Bad())


def test_trainings_of_different_precision_follow_each_other(train, tiny):
    exact = train(out="a", precision="float32")
    rough = train(out="b", precision="bfloat16")
    again = train(out="c", precision="float32")
    assert tiny.same(tiny.weights(exact.module), tiny.weights(again.module))
    assert not tiny.same(tiny.weights(exact.module), tiny.weights(rough.module))
    for name, expected in exact.module.state_dict().items():
        assert rough.module.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(rough.module.state_dict()[name], expected, atol=0.02, rtol=0.05)


def test_finished_folder_says_what_was_kept(train, tmp_path):
    train()
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done["kept"] == "last"
    assert len(done["fingerprint"]) == 64
