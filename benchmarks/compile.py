"""`python -m nox -s bench -- compile`: what compiling costs and brings, beside core's TorchCompileModel and no node.

Each start is a fresh process with one thread and PyTorch's attention; all caches lie in a folder that is new. Writes
results/compile.json, compile.md and compile.png; with --out FOLDER there instead.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dev.host import ROOT

from .compile_chart import draw
from .compile_targets import judge, markdown
from .report import environment

CACHES = "TORCHINDUCTOR_CACHE_DIR"


def measure(folder: Path) -> dict[str, Any]:
    """Return all phases. `folder` is empty; every cache of every process lies below it."""
    data: dict[str, Any] = {"cold": {}, "warm": {}, "shipped": {}}
    for method in ("core", "ours"):
        for part in ("cold", "warm"):
            data[part][method] = _process([method], folder / method)
    kept = next((folder / "ours" / "user").rglob("*.bin")).relative_to(folder / "ours")
    (folder / "shipped" / kept).parent.mkdir(parents=True)
    shutil.copyfile(folder / "ours" / kept, folder / "shipped" / kept)
    data["shipped"]["ours"] = _process(["ours"], folder / "shipped")
    data["steady"] = _process(["eager", "core", "ours"], folder / "steady", "steady")
    return data


def _process(methods: list[str], home: Path, kind: str = "changes") -> dict[str, Any]:
    """Measure in a new process. Core's compiler keeps what it makes in a folder of the system: ours for the time."""
    print(f"  {home.name}: {', '.join(methods)} ({kind})", flush=True)
    (home / "user").mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != CACHES}
    environment["OMP_NUM_THREADS"] = "1"
    if "core" in methods:
        environment[CACHES] = str(home / "inductor")  # without it ours chooses ComfyUI's user directory
    command = [sys.executable, "-m", "benchmarks.compile", "--worker", ",".join(methods), str(home / "user"), kind]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{' '.join(methods)} ended with an error, see why:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["result"]


def main() -> None:
    """Measure, print, and write the three files."""
    if sys.argv[1:2] == ["--worker"]:
        from .compile_worker import main as work

        return work(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the files")
    parser.add_argument("--draw", action="store_true", help="only judge and draw the kept compile.json again")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "compile.json"
    if options.draw:
        data = json.loads(kept.read_text(encoding="utf-8"))
    else:
        begin = time.perf_counter()
        print("starting one process after the other:", flush=True)
        with tempfile.TemporaryDirectory(prefix="velocity-compile-") as name:
            data = measure(Path(name))
        data["notes"] = environment(1, seconds=round(time.perf_counter() - begin))
    verdicts = judge(data)
    data["targets"] = [asdict(verdict) for verdict in verdicts]
    text = markdown(data, verdicts)
    print(text)
    kept.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8", newline="\n")
    (options.out / "compile.md").write_text(text, encoding="utf-8", newline="\n")
    draw(data, options.out / "compile.png")
    print(f"compile.json, compile.md and compile.png are in {options.out}")


if __name__ == "__main__":
    main()
