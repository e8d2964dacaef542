"""Every claim of docs/security.md names tests, and they are there."""

import ast
import re

from dev.host import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_the_tests_that_are_named_are_there() -> None:
    there = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                there.add((file.name, node.name))
    named = TESTS.findall(PAGE)
    assert len(named) > 30 and set(named) <= there, sorted(set(named) - there)


def test_every_claim_names_one() -> None:
    claims = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert claims and not [line for line in claims if not TESTS.search(line.split("|")[2])]
