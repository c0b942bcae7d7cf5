"""python -m medunifier.tracking COMMAND.

prepare     make the store ready: tables, migrations, experiment
upload      send what a store that was away or a stage that was killed has left in journals
adopt       show stages restored from cache under the present configuration
page URL    print where, on MLflow's pages at URL, the runs of the present configuration are
serve       (started by stages and snakemake) send journals in the background until no stage runs any more
"""

import os
import sys
from urllib.parse import urlencode

from medunifier.runtime.dvc_pipeline import digest
from medunifier.runtime.errors import refuse
from medunifier.runtime.file_locks import hold_until_exit
from medunifier.runtime.yaml import read_mapping
from medunifier.tracking import background
from medunifier.tracking.configuration import up_to_date_stages
from medunifier.tracking.settings import CONFIGURATION_TAG, store_uri


def prepare() -> str:
    """Make the store ready."""
    from medunifier.tracking.store import Store  # the other commands need no MLflow in this process

    Store(store_uri())
    return f"{store_uri()}: ready"


def upload() -> str:
    """Wait for the uploader to send all that journals hold."""
    return f"{background.upload()} run(s) brought up to date in {store_uri()}"


def adopt() -> str:
    """Show up-to-date stages under the present configuration."""
    background.adopt(up_to_date_stages())
    return f"{store_uri()}: shows every stage that is up to date"


def page(url: str) -> str:
    """Return the address of the runs of the present configuration, in the view for training, as one flat list."""
    from medunifier.tracking.store import Store

    query = {
        "workflowType": "machine_learning",
        "searchFilter": f"tags.{CONFIGURATION_TAG} = '{digest(read_mapping('params.yaml'))}'",
        "orderByKey": "tags.`mlflow.runName`",  # by date, MLflow would hide the stages under their parent
        "orderByAsc": "true",
    }
    return f"{url}/#/experiments/{Store(store_uri()).experiment}/runs?{urlencode(query)}"


def serve() -> str:
    """Leave the process that has started this one, then send journals unless another uploader does."""
    if os.fork():
        os._exit(0)
    lock = hold_until_exit(background.lock_path())  # before MLflow is imported, which takes seconds
    if lock is None:
        return "another uploader runs"
    from medunifier.tracking import store, uploader

    try:
        uploader.serve(lock)
    except store.StoreReplacedError as error:
        print(f"{error}; the uploader starts again", flush=True)
        os.execv(sys.executable, [sys.executable, "-m", "medunifier.tracking", "serve"])
    return "ended"


COMMANDS = {"prepare": prepare, "upload": upload, "adopt": adopt, "page": page, "serve": serve}


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    name, *rest = arguments or [""]
    assert __doc__ is not None
    if name not in COMMANDS or len(rest) != (name == "page"):
        print(__doc__.strip(), file=sys.stdout if arguments == ["--help"] else sys.stderr)
        return 0 if arguments == ["--help"] else 2
    os.environ["MEDUNIFIER_UPLOADER"] = "on"  # `off` is for stages and snakemake
    try:
        print(COMMANDS[name](*rest), flush=True)
    except Exception as error:
        return refuse("tracking", error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
