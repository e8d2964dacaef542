"""docs/faults.md names every test of this folder, and of others only such that there are."""

import ast
import re
from pathlib import Path

from test_faults_uploads import MALICIOUS

from dev.host import ROOT

TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
BESIDE = {"test_the_valid_request_is_valid"}  # not of a fault


def test_the_table_names_the_tests_that_there_are() -> None:
    here = names_in(Path(__file__).parent)
    beside = set().union(*(names_in(ROOT / "tests" / folder) for folder in ("endpoint", "remote", "offload")))
    named = re.findall(r"`(test_\w+)`", TABLE)
    assert len(here) > 40 and len(named) == len(set(named))
    assert here - BESIDE <= set(named) <= here - BESIDE | beside


def names_in(folder: Path) -> set[str]:
    there = set()
    for file in folder.glob("test_*.py"):
        if file.name != Path(__file__).name:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            there |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"}
    return there


def test_every_line_has_four_cells() -> None:
    assert not [line for line in TABLE.splitlines() if line.startswith("|") and line.count("|") != 5]


def test_the_table_counts_right() -> None:
    assert f"{len(MALICIOUS)} in all" in TABLE
