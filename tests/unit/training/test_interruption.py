"""Interruption and resume of the training loop: kills, signals, broken checkpoints, divergence."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from medunifier.training.checkpoints import Checkpoints
from medunifier.training.history import DivergedError
from medunifier.training.loop import Trainer
from tests.support.small_training import Net, Silent, data, fit, loss, recipe, watched


@pytest.mark.parametrize("stop_at", [1, 5, 11])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, stop_at):
    whole, history = fit(tmp_path / "whole")
    calls = iter(range(100))

    def dies(model, batch, generator):
        if next(calls) == stop_at:
            raise KeyboardInterrupt  # as good as kill -9: nothing of the loop runs after it
        return loss(model, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", loss=dies)
    resumed, again = fit(tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.rows == history.rows
    steps = {split: [r["step"] for r in again.rows if r["split"] == split] for split in ("train", "validate")}
    assert steps == {"train": [4, 8, 10, 12], "validate": [0, 4, 8, 12]}


@pytest.mark.slow
def test_kill_9_at_every_step(tmp_path):
    blocks = [np.arange(4), np.arange(4, 10)]
    whole, history = fit(tmp_path / "whole", blocks=blocks)
    for last in range(1, 13):

        def killed(folder=tmp_path / str(last), last=last):
            torch.set_num_threads(1)  # a forked process cannot use its parent's threads
            calls = iter(range(1, 100))

            def dies(model, batch, generator):
                if next(calls) == last:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss(model, batch, generator)

            fit(folder, loss=dies, blocks=blocks)

        child = multiprocessing.get_context("fork").Process(target=killed)
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        newest = Checkpoints(tmp_path / str(last)).load()
        assert (newest["step"] if newest else 0) == (last - 1) // 3 * 3  # checkpoint_every: 3
        resumed, again = fit(tmp_path / str(last), blocks=blocks)
        assert again.rows == history.rows
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_leaves_a_checkpoint_of_the_step_reached(tmp_path, number):
    """SIGINT is Ctrl-C: no KeyboardInterrupt."""
    calls = iter(range(100))

    def signalled(model, batch, generator):
        if next(calls) == 4:
            os.kill(os.getpid(), number)
        return loss(model, batch, generator)

    before = signal.getsignal(number)
    signal.signal(
        number, signal.default_int_handler
    )  # as in a terminal; a script's background job ignores SIGINT
    try:
        with pytest.raises(SystemExit) as stopped:
            fit(tmp_path, loss=signalled)
        assert stopped.value.code == 128 + number and signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert Checkpoints(tmp_path).load()["step"] == 5
    whole, history = fit(tmp_path / "whole")
    resumed, again = fit(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.rows == history.rows


def test_ctrl_c_stays_ignored_where_it_was_ignored(tmp_path):
    def signalled(model, batch, generator):
        os.kill(os.getpid(), signal.SIGINT)
        return loss(model, batch, generator)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        _, history = fit(tmp_path, loss=signalled)
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.rows[-1]["step"] == 12


def test_checkpoints_by_the_clock_come_in_time_and_do_not_show_in_the_curves(tmp_path):
    whole, history = fit(tmp_path / "whole", chosen=recipe(checkpoint_every=100))
    calls = iter(range(100))

    def dies(model, batch, generator):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return loss(model, batch, generator)

    often = recipe(checkpoint_every=100, checkpoint_minutes=1e-9)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "often", chosen=often, loss=dies)
    assert Checkpoints(tmp_path / "often").load()["step"] == 7
    resumed, again = fit(tmp_path / "often", chosen=often)
    assert again.rows == history.rows
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_early_stopping_survives_a_kill(tmp_path):
    values = [5, 1, 3, 4, 9, 9, 9, 9, 9, 9, 9, 9, 9]
    whole, _, _ = watched(tmp_path / "whole", values)
    with pytest.raises(SystemExit):
        watched(tmp_path / "cut", values, stop_after=2)
    # the second process sees one value more before patience ends; its best is the first process's
    again, seen, history = watched(tmp_path / "cut", values[3:])
    assert len(seen) == 1 and history.rows[-1]["step"] == 3
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in again.state_dict().items())


def test_a_broken_checkpoint_is_set_aside_for_the_one_before(tmp_path, capsys):
    whole, _ = fit(tmp_path)
    newest = Checkpoints(tmp_path).paths()[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    resumed, _ = fit(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert "set aside" in capsys.readouterr().out


def test_a_single_flipped_bit_anywhere_is_noticed_and_results_are_those_of_an_undisturbed_run(
    tmp_path, capsys
):
    whole, history = fit(tmp_path / "whole")
    calls = iter(range(100))

    def dies(model, batch, generator):
        if next(calls) == 10:
            raise KeyboardInterrupt
        return loss(model, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", loss=dies)
    newest = Checkpoints(tmp_path / "cut").paths()[-1]
    content, rng = newest.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(8 * len(content), size=40):  # every one loads the state from before, of step 6
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        newest.write_bytes(damaged)
        assert Checkpoints(tmp_path / "cut").load()["step"] == 6
        told = capsys.readouterr().out
        assert f"{newest} is damaged" in told and f"set aside as {newest.name}.broken" in told
    resumed, again = fit(tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert again.rows == history.rows


def test_nan_names_step_loss_and_checkpoint(tmp_path):
    calls = iter(range(100))

    def breaks(model, batch, generator):
        value, parts = loss(model, batch, generator)
        if next(calls) == 7:
            return value * float("nan"), {"mse": parts["mse"] * float("nan")}
        return value, parts

    with pytest.raises(
        DivergedError, match=r"mse is nan at step 8\. Last good checkpoint: .*step-00000006-[0-9a-f]{16}\.pt"
    ):
        fit(tmp_path, loss=breaks)


class Backward(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `factor`."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


@pytest.mark.parametrize("clip_norm", [1.0, None])
@pytest.mark.parametrize("factor", [float("inf"), float("nan"), 3e22])
def test_weights_are_not_saved_after_a_gradient_that_is_not_finite(tmp_path, clip_norm, factor):
    """The loss itself is finite; 3e22 gives finite gradients whose norm is beyond float32."""
    calls = iter(range(100))

    def breaks(model, batch, generator):
        value, parts = loss(model, batch, generator)
        return Backward.apply(value, factor if next(calls) == 5 else 1.0), parts

    chosen = recipe(clip_norm=clip_norm)
    with pytest.raises(
        DivergedError,
        match=r"gradient_norm is (inf|nan) at step 6\. Last good checkpoint: .*step-00000003-[0-9a-f]{16}\.pt",
    ):
        fit(tmp_path, loss=breaks, chosen=chosen)
    state = Checkpoints(tmp_path).load()
    assert state["step"] == 3 and all(weight.isfinite().all() for weight in state["model"].values())
    resumed, _ = fit(tmp_path, chosen=chosen)  # and it resumes from there
    assert all(weight.isfinite().all() for weight in resumed.parameters())


def test_a_validation_value_that_is_not_finite_names_step_value_and_checkpoint(tmp_path):
    torch.manual_seed(0)
    values = iter([1.0, 1.0, float("nan")])
    with pytest.raises(
        DivergedError,
        match=r"validation itc is nan at step 8\. Last good checkpoint: .*step-00000006-[0-9a-f]{16}\.pt",
    ):
        Trainer(
            Net(),
            recipe(),
            items=10,
            load=data,
            loss=loss,
            validate=lambda model: {"itc": next(values)},
            tracker=Silent(),
            checkpoints=Checkpoints(tmp_path),
        ).run()
