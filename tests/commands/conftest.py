import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path):
    """Mount a tmpfs with options; skipped where that is not permitted."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mounted(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("cannot mount a tmpfs here (not root)")
        return folder

    if os.name == "nt":
        pytest.skip("no tmpfs on Windows")
    yield mounted
    subprocess.run(["umount", folder], capture_output=True, check=False)
