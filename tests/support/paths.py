"""Where the tests find the repository and the real data beside it (absent on most machines)."""

from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
SHARED = REPO.parent / "shared"
