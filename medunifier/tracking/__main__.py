"""python -m medunifier.tracking prepare    make the store ready, before stages start side by side
python -m medunifier.tracking upload     send what a broken store or a killed stage left behind
python -m medunifier.tracking adopt      show stages restored from cache under the present configuration
"""

import sys

from medunifier.runtime.errors import InputError
from medunifier.tracking.configurations import adopt, up_to_date_stages
from medunifier.tracking.interface import store_uri
from medunifier.tracking.leftovers import upload
from medunifier.tracking.store import prepare_store


def main(arguments: list[str]) -> int:
    commands = {
        "prepare": lambda: prepare_store() or f"{store_uri()}: ready",
        "upload": lambda: f"{upload()} run(s) brought up to date in {store_uri()}",
        "adopt": lambda: f"{len(adopt(up_to_date_stages()))} stage(s) shown from cache",
    }
    if len(arguments) != 1 or arguments[0] not in commands:
        print(__doc__.strip(), file=sys.stderr if arguments != ["--help"] else sys.stdout)
        return 0 if arguments == ["--help"] else 2
    try:
        print(commands[arguments[0]]())
    except InputError as error:
        print(f"tracking: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
