"""The DVC remote, where a colleague may have left results: asked once when snakemake starts, used by every stage."""

import sys

from medunifier.runtime.files import write_text
from workflow.changes import STATE

REACHED = STATE / "remote"  # name of the default remote, if the main process has reached it


def fetch_run_cache() -> None:
    """Copy the remote's record of runs (small files) here, so that stages can restore what others have computed.

    Without a default remote nothing happens; one that does not answer costs a warning, and stages compute.
    """
    from dvc.repo import Repo

    name = ""
    with Repo(_wait_for_lock=True) as repo:
        if repo.config["core"].get("remote"):
            try:
                transfer_run_cache(repo)
                name = repo.config["core"]["remote"]
            except Exception as error:
                print(
                    f"DVC's remote `{repo.config['core']['remote']}` cannot be used ({error}); "
                    "what is only there will be computed again",
                    file=sys.stderr,
                )
    write_text(REACHED, name, shared=True)


def transfer_run_cache(repo) -> None:
    """Copy what the remote's run cache has and this one lacks. Raises what the storage raises."""
    odb = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
    repo.stage_cache.transfer(odb, repo.cache.legacy, force=False)


def is_reached() -> bool:
    """Whether stages may pull from the remote."""
    return REACHED.exists() and bool(REACHED.read_text(encoding="utf-8"))
