"""A colleague's clone gets results without computing: from a cache that a group shares, or from a remote."""

import os

import pytest

from tests.support.toy_pipeline import Toy

COMMIT = "git add -A . && git -c user.name=a -c user.email=a@b commit -qm results"
ALL = 8  # stages


def clone(done: Toy, name: str) -> Toy:
    """The committed files of a finished pipeline, dvc.lock among them, in another folder; no data, no state."""
    folder = done.folder.parent / name
    done.shell(f"{COMMIT} && git clone -q . {folder}")
    (folder / "ran.txt").unlink(missing_ok=True)
    return Toy(folder)


@pytest.mark.parametrize("links", ["hardlink,copy", "symlink", "copy"])
def test_a_cache_shared_by_a_group(done: Toy, links: str) -> None:
    cache = done.folder.parent / "cache"
    done.shell(f"mv .dvc/cache {cache}")
    colleague = clone(done, "colleague")
    before = set((cache / "files/md5").rglob("*"))
    for toy in (done, colleague):
        toy.shell(
            f"dvc cache dir --local {cache} && dvc config --local cache.shared group && "
            f"dvc config --local cache.type {links}"
        )
    assert len(colleague.planned()) == ALL, "every result is missing here"
    colleague.call("snakemake --cores 2")
    assert colleague.ran() == [] and colleague.planned() == [] and colleague.unclean() == []
    assert colleague.read("models/full/file.txt") == done.read("models/full/file.txt")
    # what the colleague now computes is there for the first, by way of the run cache alone
    for toy in (colleague, done):
        toy.edit("params.yaml", "full: {weight: 1}", "full: {weight: 2}")
    colleague.call("snakemake --cores 2")
    assert "train@full" in colleague.ran()
    done.call("snakemake --cores 2")
    assert done.ran() == [] and done.unclean() == []
    new = [path for path in set((cache / "files/md5").rglob("*")) - before if path.is_dir()]
    assert new and all(path.stat().st_mode & 0o020 for path in new), "others of the group may add to it"


@pytest.fixture
def s3(monkeypatch):
    """An S3-compatible store on 127.0.0.1: (URL of a bucket's folder, its endpoint)."""
    from urllib.request import Request, urlopen

    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    urlopen(Request(f"{endpoint}/results", method="PUT")).close()
    yield "s3://results/medunifier", endpoint
    server.stop()


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_remote(done: Toy, kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "s3":
        url, endpoint = request.getfixturevalue("s3")
        done.shell(f"dvc remote add -d shared {url} && dvc remote modify shared endpointurl {endpoint}")
    else:
        done.shell(f"dvc remote add -d shared {done.folder.parent / 'remote'}")
    done.environment.update(os.environ | {"PATH": done.environment["PATH"]})
    done.shell("dvc push -q --run-cache")
    colleague = clone(done, "colleague")
    colleague.environment.update(
        done.environment | {"DVC_SITE_CACHE_DIR": f"{colleague.folder}/.dvc/tmp/site"}
    )
    colleague.call("snakemake --cores 2")
    assert colleague.ran() == [] and colleague.unclean() == []
    assert colleague.read("models/full/file.txt") == done.read("models/full/file.txt")
    assert colleague.read(".state/outcomes/train@full") == "restored\n"

    # a third, who has the code and the parameters but no dvc.lock: the remote's record of runs is enough
    third = clone(colleague, "third")
    third.environment.update(done.environment | {"DVC_SITE_CACHE_DIR": f"{third.folder}/.dvc/tmp/site"})
    (third.folder / "dvc.lock").unlink()
    third.call("snakemake --cores 2")
    assert third.ran() == [] and third.unclean() == []


def test_a_remote_that_does_not_answer_costs_a_warning(done: Toy) -> None:
    done.shell(
        "dvc remote add -d shared s3://results && dvc remote modify shared endpointurl http://127.0.0.1:9"
    )
    done.shell("dvc remote modify shared connect_timeout 1 && dvc remote modify shared retries 0 || true")
    done.environment.update({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_MAX_ATTEMPTS": "1"})
    done.edit("params.yaml", "ks: [1, 5]", "ks: [1]")
    said = done.call("snakemake --cores 2")
    assert "DVC's remote `shared` cannot be used" in said and "Traceback" not in said
    assert len(done.ran()) == 3
