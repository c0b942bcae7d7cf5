"""A plan for a data set whose images are absent says so before anything runs."""

import pytest

from tests.support.fake_iu_xray import FakeIuXray
from workflow import hooks
from workflow.changes import Stage


def stage(name, changed="its parameters have changed"):
    return Stage(name, name.partition("@")[0], "", (), changed)


@pytest.fixture
def warn(tmp_path, monkeypatch, capsys):
    fake = FakeIuXray(tmp_path / "iu")
    fake.add(1)
    fake.write_xml()

    def of(*stages, empty=True, **changes):
        for file in (fake.root / "NLMCXR_png").iterdir() if empty else ():
            file.unlink()
        datasets = {"iu": fake.settings().replace(**changes)}
        monkeypatch.setattr(hooks, "load_params", lambda: type("Params", (), {"datasets": datasets}))
        hooks.warn_of_absent_images({stage.name: stage for stage in stages})
        return capsys.readouterr().err

    return of


def test_absent_images_are_told_before_the_work(warn):
    told = warn(stage("prepare@iu"), stage("pretrain@full"))
    assert "datasets.iu: no image file below" in told and "python -m stages.prepare --check iu" in told
    assert warn(stage("decode_images@iu")).count("WARNING") == 1
    assert "no folder nowhere" in warn(stage("prepare@iu"), root="nowhere")


def test_nothing_is_told_where_images_are_there_or_not_needed(warn):
    assert warn(stage("prepare@iu"), empty=False) == ""
    assert warn(stage("prepare@iu", changed=""), stage("pretrain@full")) == ""
    assert warn(stage("prepare@iu"), root="data/simulated/nothing") == ""
