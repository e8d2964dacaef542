"""Everything a developer runs: `python -m nox -s demo|tests|soak|forward|templates|comfy|bench|lint`.

All sessions share one virtual environment and one unpacked ComfyUI, both cached outside the repository, so only the
first run pays for the download (about 3 GB: the torch trio from PyPI).
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nox
import platformdirs

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from dev.comfyui_source import FLOOR, REFERENCE, comfyui_tree  # noqa: E402
from dev.forward_table import write_table  # noqa: E402
from dev.parts import FORWARD, SOAK, TESTS, Part, Running, folders_without_part, run_parts  # noqa: E402

CACHE = Path(os.environ.get("VELOCITY_CACHE") or platformdirs.user_cache_path("comfyui-velocity"))
ENVIRONMENT = CACHE / f"python{sys.version_info.major}.{sys.version_info.minor}"
NEWEST = ("comfyui-frontend-package", "comfy-kitchen", "comfy-aimdo")
# A matched trio: newer torch has no matching torchaudio on PyPI.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")

nox.options.default_venv_backend = "none"
nox.options.sessions = ["tests"]


def _python(session: nox.Session) -> str:
    """Return the interpreter of the shared environment, installing into it what changed since the last run."""
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = ENVIRONMENT / "installed.txt"
    comfy_requirements = comfyui_tree(REFERENCE, CACHE) / "requirements.txt"
    own_requirements = [ROOT / "requirements.txt", ROOT / "dev" / "requirements.txt"]
    wanted = "\n".join(
        [*TORCH, *(path.read_text(encoding="utf-8") for path in [comfy_requirements, *own_requirements])]
    )
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        session.log("first run: installing torch and ComfyUI's requirements (about 3 GB, some minutes)")
        if not python.is_file():
            session.run(sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT), silent=False)
        files = [word for path in [comfy_requirements, *own_requirements] for word in ("-r", str(path))]
        session.run(str(python), "-m", "pip", "install", *TORCH, *files)
        stamp.write_text(digest, encoding="utf-8")
    return str(python)


def _run(session: nox.Session, *arguments: str, comfyui: str = REFERENCE, **options: float) -> None:
    """Run `python ARGUMENTS` of the shared environment in the repository's root."""
    # The root stays out of PYTHONPATH: our `nodes` folder would hide ComfyUI's nodes.py. `-m` finds it by itself.
    session.run(_python(session), *arguments, env=_environment(comfyui), **options)


def _run_parts(session: nox.Session, parts: Sequence[Part]) -> list[Running]:
    python = _python(session)
    newest = _newest(session, python) if any(part.newest for part in parts) else python

    def start(part: Part) -> tuple[str, dict[str, str]]:
        return newest if part.newest else python, _environment(part.comfyui)

    return run_parts(parts, start, session.log)


def _newest(session: nox.Session, python: str) -> str:
    """Return the interpreter of an environment on top of the shared one, with the newest of what ComfyUI pins."""
    folder = CACHE / f"{ENVIRONMENT.name}-newest"
    own = folder / Path(python).relative_to(ENVIRONMENT)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    if not own.is_file():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder))
        packages, shared = (session.run(str(one), "-c", ask, silent=True).strip() for one in (own, python))
        Path(packages, "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
    session.run(str(own), "-m", "pip", "install", "--upgrade", *NEWEST)
    return str(own)


def _check(session: nox.Session, ended: list[Running]) -> None:
    if any(one.code for one in ended):
        session.error("tests failed, see above")


def _environment(comfyui: str) -> dict[str, str]:
    return {"COMFYUI_PATH": str(comfyui_tree(comfyui, CACHE)), "PYTHONUTF8": "1"}


@nox.session
def setup(session: nox.Session) -> None:
    """Install the environment and unpack both ComfyUI versions, and do nothing else."""
    _python(session)
    comfyui_tree(FLOOR, CACHE)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting of everything, and that the pack's imports only go down."""
    _run(session, "-m", "ruff", "check", ".")
    _run(session, "-m", "ruff", "format", "--check", ".")
    _run(session, "-m", "dev.imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, then every test on the reference ComfyUI, and on the oldest one we support what touches ComfyUI."""
    lint(session)
    if session.posargs:
        _run(session, "-m", "pytest", *session.posargs)
        return
    missing = folders_without_part(TESTS)
    if missing:
        session.error(f"no part of the tests has the folders {', '.join(missing)}: add them to dev/parts.py")
    _check(session, _run_parts(session, TESTS))


@nox.session
def soak(session: nox.Session) -> None:
    """Before a release, on an idle machine: what `tests` leaves out, and a thousand jobs with trouble (docs/soak.md).

    `-- offload [options]` runs these jobs alone.
    """
    alone, *options = session.posargs or [""]
    if alone not in ("", "offload"):
        session.error("only offload can run alone: python -m nox -s soak -- offload [options]")
    ended = [] if alone else _run_parts(session, SOAK)
    _run(session, "tests/soak/soak_run.py", *options)
    _check(session, ended)


@nox.session
def forward(session: nox.Session) -> None:
    """Host and browser tests with the newest packages, numerics on two more ComfyUIs; writes docs/compatibility.md."""
    ended = _run_parts(session, FORWARD)
    write_table(ended)
    _check(session, ended)


@nox.session
def templates(session: nox.Session) -> None:
    """Which samplers of ComfyUI's official workflow templates Offload can send; writes docs/templates.md."""
    _run(session, "-m", "dev.templates", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Paint with the tiny model, stock and accelerated, and compare; pictures land in demo/out/."""
    _run(session, "-m", "demo.run", *session.posargs)


@nox.session
def comfy(session: nox.Session) -> None:
    """Serve ComfyUI with the pack, the tiny model and the workflows for a person, until Ctrl+C."""
    _run(session, "-m", "dev.server", *session.posargs, interrupt_timeout=15, terminate_timeout=15)


@nox.session
def bench(session: nox.Session) -> None:
    """Run one benchmark: `python -m nox -s bench -- NAME [options]`."""
    files = (ROOT / "benchmarks").glob("[!_]*.py")
    names = sorted(path.stem for path in files if "__main__" in path.read_text(encoding="utf-8"))
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name a benchmark after --, one of: {', '.join(names)}")
    name, *options = session.posargs
    _run(session, "-m", f"benchmarks.{name}", *options)
