"""The training loop: schedule, steps, data order, precision, early stopping, curves."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from medunifier.runtime.errors import InputError
from medunifier.training.batch_order import permutation, step_rows
from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from medunifier.training.optimizer import parameter_groups
from medunifier.training.recipe import Recipe
from medunifier.training.throughput import flop_counter, matmul_flops, peak_flops
from tests.support.small_training import Net, Silent, data, fit, loss, recipe, watched


def test_schedule_equals_a_table_written_by_hand():
    r = Recipe(
        steps=11,
        batch_size=1,
        learning_rate=1.0,
        seed=0,
        warmup_fraction=0.2,
        warmup_start=0.1,
        final_learning_rate=0.2,
    )
    # 3 warm-up steps, then a half cosine over the remaining 8 (7 intervals): 0.2 + 0.4 (1 + cos(pi k / 7))
    table = [0.1, 0.4, 0.7, 1.0, 0.960388, 0.849396, 0.689008, 0.510992, 0.350604, 0.239612, 0.2]
    np.testing.assert_allclose([r.learning_rate_at(s) for s in range(11)], table, atol=1e-6)


def test_the_last_step_trains_unless_a_last_rate_of_0_is_asked_for():
    # 1 warm-up step, then (1 + cos(pi k / 4)) / 2 for k = 0 to 3: 0 would come with k = 4
    given = {"steps": 5, "batch_size": 1, "learning_rate": 1.0, "seed": 0, "warmup_fraction": 0.2}
    open_end = [0.0, 1.0, 0.853553, 0.5, 0.146447]
    np.testing.assert_allclose([Recipe(**given).learning_rate_at(s) for s in range(5)], open_end, atol=1e-6)
    assert Recipe(**given, final_learning_rate=0.0).learning_rate_at(4) == 0


def test_a_recipe_takes_what_sections_hold_and_what_is_given_besides():
    section = SimpleNamespace(steps=7, batch_size=2, learning_rate=0.1, dropout=0.3, seeds=(1, 2))
    found = Recipe.from_params(section, SimpleNamespace(steps=8, clip_norm=None), seed=4, batch_size=3)
    assert found == Recipe(steps=8, batch_size=3, learning_rate=0.1, seed=4, clip_norm=None)


class Point(nn.Module):
    """One number, which is kept below `most` after every step."""

    def __init__(self, most):
        super().__init__()
        self.x, self.most = nn.Parameter(torch.zeros(1)), most

    def forward(self, slope):
        return (slope * self.x).sum()

    @torch.no_grad()
    def constrain(self):
        self.x.clamp_(max=self.most)


def path(folder, slopes, *, most=float("inf"), **changes):
    """Where training leads a Point, step by step (steps + 1,), whose loss falls by `slopes[step]` per unit."""
    AcceleratorState._reset_state()
    point, seen, slope = Point(most), [], iter(slopes)

    def falling(model, batch, generator):
        seen.append(float(point.x.detach()))
        return -model(next(slope)), {}

    chosen = recipe(steps=len(slopes), **changes)
    common = {"validate": lambda _: {}, "tracker": Silent(), "checkpoints": Checkpoints(folder)}
    Trainer(point, chosen, items=10, load=data, loss=falling, **common).run()
    return np.array([*seen, float(point.x.detach())]), chosen


def test_steps_are_as_long_as_the_schedule_says(tmp_path):
    """Under a constant gradient AdamW goes as far as the learning rate."""
    places, chosen = path(tmp_path, [1.0] * 10, warmup_start=0.002)
    np.testing.assert_allclose(
        np.diff(places), [chosen.learning_rate_at(step) for step in range(10)], atol=1e-6
    )


def test_gradients_are_clipped_to_their_norm(tmp_path):
    """Clipped to 1, gradients of any size lead where gradients of 1 do; not clipped, they do not."""
    slopes = [1.0, 50.0, 3.0, 1.0, 7.0, 1.0]
    even, _ = path(tmp_path / "even", [1.0] * 6)
    clipped, _ = path(tmp_path / "clipped", slopes, clip_norm=1.0)
    free, _ = path(tmp_path / "free", slopes, clip_norm=None)
    np.testing.assert_allclose(clipped, even, atol=1e-6)
    assert abs(free - even).max() > 1e-3


def test_the_model_constrains_itself_after_every_step(tmp_path):
    free, _ = path(tmp_path / "free", [1.0] * 8)
    kept, _ = path(tmp_path / "kept", [1.0] * 8, most=0.02)
    np.testing.assert_allclose(kept, free.clip(max=0.02), atol=1e-6)
    assert free.max() > 0.03


def test_every_item_once_per_epoch_and_shares_add_up():
    r = recipe(steps=15, batch_size=4, accumulate=2)
    alone = np.concatenate(list(step_rows(10, recipe(steps=15), 0, 0, 1)))
    assert all(sorted(alone[i : i + 10]) == list(range(10)) for i in range(0, 60, 10))
    shares = [list(step_rows(10, r, 0, process, 2)) for process in range(2)]
    joined = [
        rows
        for step in range(15)
        for share in shares  # a process holds one stretch of a batch, however many micro-batches it is cut into
        for rows in share[2 * step : 2 * step + 2]
    ]
    assert np.concatenate(joined).tolist() == alone.tolist()
    assert np.concatenate(list(step_rows(10, recipe(steps=15), 6, 0, 1))).tolist() == alone[24:].tolist()


def test_only_matrices_decay():
    decay, free = parameter_groups(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), 0.05)
    assert [p.ndim for p in decay["params"]] == [2] and decay["weight_decay"] == 0.05
    assert {p.ndim for p in free["params"]} == {1} and free["weight_decay"] == 0.0


@pytest.mark.slow
def test_two_runs_are_the_same_to_the_last_bit_though_threads_share_a_sum(tmp_path):
    """Gradients of rows chosen many times, as hard negatives are, come together in any order by default."""

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.randn(3, 64, 256))

        def forward(self, x):
            return self.rows[torch.arange(600) % 3] * x

    def chosen_loss(model, batch, generator):
        value = (model(torch.randn(600, 64, 256, generator=generator)) ** 2).mean()
        return value, {"mse": value.detach()}

    found = []
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for run in range(4):
            AcceleratorState._reset_state()
            torch.manual_seed(0)
            net = Chosen()
            folder = Checkpoints(tmp_path / str(run))
            Trainer(
                net,
                recipe(steps=4),
                items=10,
                load=data,
                loss=chosen_loss,
                validate=lambda _: {},
                tracker=Silent(),
                checkpoints=folder,
            ).run()
            found.append(net.rows.detach().numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(set(found)) == 1
    assert not torch.are_deterministic_algorithms_enabled()  # and what comes after is as before


def test_the_gradient_norm_without_clipping_is_that_of_the_gradients(tmp_path):
    """By the first step of plain gradients: the logged norm equals that of all of them in one vector."""
    found = []

    def noted(model, batch, generator):
        value, parts = loss(model, batch, generator)
        flat = torch.cat(
            [g.flatten() for g in torch.autograd.grad(value, model.parameters(), retain_graph=True)]
        )
        found.append(float(flat.norm()))
        return value, parts

    _, history = fit(tmp_path, loss=noted, chosen=recipe(clip_norm=None, validate_every=1))
    logged = [row["gradient_norm"] for row in history.rows if row["split"] == "train"]
    assert logged == pytest.approx(found, rel=1e-5)


def test_impossible_batch_sizes_are_refused(tmp_path):
    with pytest.raises(InputError, match="10 training items are fewer than batch_size = 16"):
        fit(tmp_path, chosen=recipe(batch_size=16))
    with pytest.raises(InputError, match="multiple of processes x accumulate"):
        fit(tmp_path, chosen=recipe(accumulate=3))


def test_accumulation_equals_the_whole_batch(tmp_path):
    def plain(model, batch, generator):
        model.eval()  # no dropout: micro-batches have their own
        return ((model(batch["x"]) - batch["y"]) ** 2).mean(), {}

    one, _ = fit(tmp_path / "a", loss=plain)
    two, _ = fit(tmp_path / "b", loss=plain, chosen=recipe(accumulate=2))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_loading_runs_beside_training(tmp_path):
    threads = set()

    def load(rows):
        threads.add(threading.current_thread())
        return data(rows)

    fit(tmp_path, load=load)
    assert threading.main_thread() not in threads


def test_early_stopping_ends_with_the_best_weights(tmp_path):
    net, seen, history = watched(tmp_path, [5, 4, 3, 3.5, 3, 9, 9, 9, 9, 9, 9, 9, 9])
    assert history.rows[-1]["step"] == 4, "2 and 3 brought nothing better"
    assert all(torch.equal(v, seen[2][k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(("keep", "kept"), [("last", 4), ("best", 2)])
def test_a_training_to_the_end_keeps_its_last_or_its_best_weights(tmp_path, keep, kept):
    seen, values = [], iter([5.0, 4.0, 3.0, 3.5, 3.0])

    def validate(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"loss": next(values)}

    chosen = recipe(steps=4, validate_every=1, keep=keep)
    net, history = fit(tmp_path, chosen=chosen, validate=validate)
    assert [row["step"] for row in history.rows if row["split"] == "validate"] == [0, 1, 2, 3, 4]
    assert history.lowest("validate", "loss")["step"] == 2
    for name, value in net.state_dict().items():
        assert torch.equal(value, seen[kept][name])


def test_groups_have_learning_rates_of_their_own(tmp_path):
    net = Net()
    before = {k: v.clone() for k, v in net.named_parameters()}
    first, last = net.layers[0], net.layers[3]
    groups = [
        {"params": list(first.parameters()), "rate_scale": 0.0},
        {"params": list(last.parameters()), "rate_scale": 1.0},
    ]
    fit(tmp_path, net=net, groups=groups)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("layers.0"), name


def test_bf16_is_close_to_fp32_and_not_equal(tmp_path):
    _, whole = fit(tmp_path / "a")
    net, half = fit(tmp_path / "b", chosen=recipe(precision="bf16"))
    one, other = whole.rows[-2]["mse"], half.rows[-2]["mse"]
    assert one == pytest.approx(other, rel=0.02) and one != other
    assert all(p.dtype == torch.float32 for p in net.parameters())  # only the arithmetic is halved


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_fp16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        fit(tmp_path, chosen=recipe(precision="fp16"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with loss scaling needs a GPU")
def test_fp16_is_close_to_fp32(tmp_path):
    _, whole = fit(tmp_path / "a")
    _, half = fit(tmp_path / "b", chosen=recipe(precision="fp16"))
    assert whole.rows[-2]["mse"] == pytest.approx(half.rows[-2]["mse"], rel=0.05)


def test_curves_hold_speed_memory_and_gradients(tmp_path):
    run = Silent()
    fit(tmp_path, run=run, chosen=recipe(clip_norm=None))
    points = [values for _, values in run.curves if "train/loss" in values]
    _, share = peak_flops(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for name in ("items_per_second", "learning_rate", "gradient_norm", share):
        assert all(values[f"train/{name}"] > 0 for values in points[1:-1])
    assert any(
        values.get("train/memory_gib", 0) + values.get("train/gpu_memory_gib", 0) > 0 for values in points
    )


def test_arithmetic_is_counted():
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with flop_counter() as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 2 * 8 * 4)  # forward, and the weights' gradient
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4)
    with flop_counter() as counter:
        nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.get_total_flops() == 2 * (2 * 2 * 3 * 5 * 4)  # scores and weighted values
    assert matmul_flops(torch.device("cpu"), size=64) > 1e6


def test_block_by_block_every_row_once_and_blocks_stay_together():
    blocks = [np.arange(4), np.arange(4, 7), np.arange(7, 12)]
    orders = [permutation(12, 3, epoch, blocks) for epoch in range(8)]
    block_of = np.repeat([0, 1, 2], [4, 3, 5])
    for order in orders:
        assert sorted(order) == list(range(12))
        assert (np.diff(block_of[order]) != 0).sum() == 2  # each block is entered once
    assert len({tuple(order) for order in orders}) == 8
    assert len({tuple(dict.fromkeys(block_of[order].tolist())) for order in orders}) > 1
    assert np.array_equal(orders[5], permutation(12, 3, 5, blocks))
    rows = np.concatenate(list(step_rows(12, recipe(steps=6, seed=3), 0, 0, 1, blocks)))
    assert np.array_equal(rows, np.concatenate(orders[:2]))


def test_a_training_refuses_sums_without_a_fixed_order_unless_allowed(tmp_path):
    """`put_` has no algorithm with one, on any device."""

    def unordered(model, batch, generator):
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))
        return loss(model, batch, generator)

    with pytest.raises(RuntimeError, match="deterministic"):
        fit(tmp_path / "strict", loss=unordered)
    with pytest.warns(UserWarning, match="deterministic"):
        fit(tmp_path / "not", loss=unordered, chosen=recipe(strict=False))


@pytest.mark.usefixtures("any_precision")
def test_after_a_training_in_bf16_the_model_computes_in_float32(tmp_path):
    dtypes = []

    def noted(model, batch, generator):
        dtypes.append(model(batch["x"]).dtype)
        return loss(model, batch, generator)

    net, _ = fit(tmp_path, chosen=recipe(precision="bf16"), loss=noted)
    again = Net()
    again.load_state_dict(net.state_dict())
    x = torch.randn(5, 6)
    assert torch.equal(net.eval()(x), again.eval()(x)) and net(x).dtype == torch.float32
    assert set(dtypes) == {torch.bfloat16}, "it trained in bf16"
