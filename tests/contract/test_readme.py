"""The README says what the code says."""

import re

import pytest

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


BENCHMARKS = ("cache", "compile", "precision", "offload", "gpu-quick-NVIDIA-H100-80GB-HBM3", "gpu-quick-NVIDIA-H200")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_its_numbers_are_those_of_the_last_benchmark(benchmark: str) -> None:
    block = re.search(
        rf"<!-- rows of benchmarks/results/{benchmark}\.md.*? -->\n(.*?)\n<!-- /rows -->", README, re.DOTALL
    )
    results = (ROOT / "benchmarks" / "results" / f"{benchmark}.md").read_text(encoding="utf-8")
    rows = block.group(1).splitlines()
    assert len(rows) > 4
    tables = [section.splitlines() for section in results.split("\n## ")]
    assert any(set(rows) <= set(table) for table in tables), "all rows of one table"
