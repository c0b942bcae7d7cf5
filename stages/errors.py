"""The one error that a user can mend. Everything else is a bug and shows its traceback."""


class InputError(Exception):
    """Bad input: the message names the file, the row or field, what was expected and what to do.

    `stages.entry.run_stage` prints it as one line and exits with code 1.
    """
