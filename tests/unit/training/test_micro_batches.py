"""Micro-batches of a step that are joined before they are trained on."""

import torch
from accelerate.state import AcceleratorState

from medunifier.training.checkpoints import Checkpoints
from medunifier.training.loop import Trainer
from tests.support.small_training import Net, Silent, data, loss, recipe


def test_joined_micro_batches_are_seen_together_and_trained_with_the_dropout_they_were_seen_with(tmp_path):
    net, sizes, compared = Net(), [], []

    def join(batches, seed):
        outputs = []
        for number, batch in enumerate(batches):
            seed(number)
            with torch.no_grad():
                outputs.append(net(batch["x"]))
        sizes.append(sum(len(batch["x"]) for batch in batches))
        total = torch.cat(outputs).sum()
        return [batch | {"seen": seen, "total": total} for batch, seen in zip(batches, outputs, strict=True)]

    def joined_loss(model, batch, generator):
        found = model(batch["x"])
        compared.append((found.detach(), batch["seen"]))
        return ((found - batch["y"]) ** 2).mean() + 0 * batch["total"], {}

    def train(folder, accumulate, joined):
        AcceleratorState._reset_state()
        common = {"validate": lambda _: {}, "tracker": Silent(), "checkpoints": Checkpoints(folder)}
        chosen, given = recipe(accumulate=accumulate), {"load": data, "loss": joined_loss if joined else loss}
        Trainer(net, chosen, items=10, join=join, **given, **common).run()

    train(tmp_path / "two", 2, True)
    assert sizes == [4] * 12 and len(compared) == 24
    assert all(torch.equal(found, seen) for found, seen in compared)
    assert len({tuple(seen.flatten().tolist()) for _, seen in compared}) == 24  # dropout differs between them
    train(tmp_path / "one", 1, False)  # a single micro-batch needs no joining
    assert len(sizes) == 12
