"""The outcomes of bad input that pass: refused with a message that names the place, rejected with a reason, or harmless."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from medunifier.data.image_content import UnreadableImage
from medunifier.runtime.errors import InputError

SECONDS = 20  # for one case, on a busy machine; each takes some hundredths
LONGEST = 4000  # characters of a message


def check_outcome(
    act: Callable[[], Any], places: Iterable[str], harmless: Callable[[Any], None] | None = None
) -> str:
    """Give bad input to a public door, and fail unless its outcome is one that a user can live with.

    Args:
        act: opens the door.
        places: a message has to hold one of these: the file's name, the row, the field.
        harmless: checks what was read where it may be read; None: the input has to be refused.

    Returns:
        The message of the refusal; empty if the input is harmless.
    """
    try:
        with time_limit():
            found = act()
    except (InputError, UnreadableImage) as error:
        message = str(error)
        message.encode()  # it can be printed and logged
        assert any(place in message for place in places), f"names none of {list(places)}: {message}"
        assert 10 < len(message) < LONGEST, message
        return message
    assert harmless is not None, f"accepted in silence: {found!r}"[:500]
    harmless(found)
    return ""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Fail if the block takes longer than SECONDS."""

    def stop(*_: object) -> None:
        pytest.fail(f"hangs: longer than {SECONDS} s")

    start, before = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < SECONDS, "too slow"
