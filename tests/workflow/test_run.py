"""What `workflow.run` shows while a stage works."""

import os
import threading
import time

from workflow.run import _relay


def test_lines_of_progress_reach_the_terminal_whole_and_in_order(tmp_path):
    log = tmp_path / "log"
    log.touch()
    reading, writing = os.pipe()
    threading.Thread(target=_relay, args=(log, "train@full", writing), daemon=True).start()
    with log.open("w") as file:
        for text in (
            "noise\n[train@full] one\n[other] no\n[train@",
            "full] two\n",
            "\rbar 30 %[train@full] three\n",
        ):
            file.write(text)
            file.flush()
            time.sleep(0.1)
        expected = b"[train@full] one\n[train@full] two\n[train@full] three\n"
        seen = b""
        while len(seen) < len(expected):
            seen += os.read(reading, 1000)
    assert seen == expected
