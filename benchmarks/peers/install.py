"""Makes the environments of the peers, one each, with pinned versions; those that are there are left alone.

    python benchmarks/peers/install.py FOLDER --only hqq torchao

torch is installed first and pinned, so that no peer brings another one. For a CPU build where the package index has
none of its own, give its wheel: --torch path/to/torch.whl
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from peers.registry import PEERS, module

TORCH = "torch==2.13.0"
DONE = "installed.txt"


def install(folder: Path, requires: tuple[str, ...], torch: str) -> None:
    """Makes one environment; it counts as there only when every package is in it."""
    if (folder / DONE).is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    for packages in ((torch,), (torch, *requires)):
        subprocess.run([*pip, "install", "--quiet", *packages], check=True)
    listed = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    (folder / DONE).write_text(listed)


def main() -> None:
    """Installs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the environments, about 1 GB each")
    parser.add_argument("--only", nargs="+", choices=sorted(set(PEERS.values())), help="these environments alone")
    parser.add_argument("--torch", default=TORCH, help="what pip installs as torch")
    args = parser.parse_args()
    for name, kind in {kind: name for name, kind in PEERS.items()}.items():
        if args.only is None or name in args.only:
            print(f"{name} ...", flush=True)
            install(args.folder / name, module(kind).REQUIRES, args.torch)


if __name__ == "__main__":
    main()
