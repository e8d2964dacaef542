"""What a user installs: everything the pack needs, and nothing that only developers need."""

from pathlib import Path

from dev.pack_copy import ROOT, install_pack, pack_files


def test_the_copy_holds_the_pack_and_no_developer_files(tmp_path: Path) -> None:
    install_pack(tmp_path / "pack")
    top = {path.name for path in (tmp_path / "pack").iterdir()}
    assert {"__init__.py", "nodes", "acceleration", "pyproject.toml", "requirements.txt", "LICENSE"} <= top
    assert not top & {"tests", "dev", "demo", "benchmarks", "noxfile.py", ".ci", ".git", ".gitignore", ".comfyignore"}
    assert (tmp_path / "pack" / "nodes" / "__init__.py").read_bytes() == (ROOT / "nodes" / "__init__.py").read_bytes()


def test_every_python_file_of_the_product_is_listed() -> None:
    files = set(pack_files())
    for folder in ("nodes", "acceleration"):
        assert {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")} <= files
