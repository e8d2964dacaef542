"""The README says what the code says."""

import re

from dev.compatibility import compatibility_table
from dev.host import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_compatibility_table_is_the_code_s_own() -> None:
    shown = re.search(r"<!-- compatibility: .*? -->\n(.*?)\n?<!-- /compatibility -->", README, re.DOTALL).group(1)
    assert shown == compatibility_table()


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert not [link for link in links if not (ROOT / link).exists()]


def test_its_numbers_are_those_of_the_last_benchmark() -> None:
    block = re.search(r"<!-- rows of .*? -->\n(.*?)\n<!-- /rows -->", README, re.DOTALL).group(1)
    results = (ROOT / "benchmarks" / "results" / "cache.md").read_text(encoding="utf-8").splitlines()
    assert len(block.splitlines()) > 4
    assert not [row for row in block.splitlines() if row not in results]
