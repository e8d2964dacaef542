"""The judge and the table of the precision benchmark, on made-up numbers."""

from dataclasses import replace

import pytest

from benchmarks.precision_targets import CORE_FAST, JUDGED, Row, judge, markdown

SIZES = {"peak_private": 1000, "peak_total": 3000, "size": 900, "size_16": 900, "file_size": 950}
CORE = Row(CORE_FAST, 0.08, 36.0, 33.0, 3.0, **SIZES, weights=900, tiny_size=41, tiny_weights=40)
FAST, SCALED = (replace(CORE, method=name, error=0.04) for name in JUDGED)


def missed(*rows: Row) -> list[str]:
    """The names of the targets that are not met."""
    return [verdict.name for verdict in judge(rows) if not verdict.met]


def test_exactly_half_the_error_at_the_same_memory_meets_all() -> None:
    assert missed(CORE, FAST, SCALED) == []
    assert len(judge([CORE, FAST, SCALED])) == 12


def test_a_little_more_error_misses() -> None:
    (verdict,) = [v for v in judge([CORE, replace(FAST, error=0.0401), SCALED]) if not v.met]
    assert verdict.name == f"{FAST.method}, error of a call"
    assert verdict.line().startswith("MISSED") and "0.50 (0.0401 against 0.0800)" in verdict.line()


@pytest.mark.parametrize("attribute", SIZES)
def test_one_byte_more_misses(attribute: str) -> None:
    more = replace(SCALED, **{attribute: SIZES[attribute] + 1})
    assert len(missed(CORE, FAST, more)) == 1
    assert missed(CORE, FAST, more)[0].startswith(SCALED.method)


def test_nothing_to_compare_with_decides_nothing() -> None:
    assert judge([FAST, SCALED]) == []


def test_a_load_that_took_no_memory_does_not_divide_by_zero() -> None:
    assert len(missed(replace(CORE, peak_private=0), FAST)) == 1


def test_table() -> None:
    rows = [CORE, replace(FAST, size=2_400_000, peak_private=7_600_000, file_size=1)]
    text = markdown({"prompts": 2}, rows, judge(rows))
    head, rule, *lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert len(head) == len(rule) == len(lines[0]) == len(lines[1])
    cells = dict(zip((name.strip() for name in head), (cell.strip() for cell in lines[1]), strict=True))
    assert (cells["method"], cells["error of a call"]) == (FAST.method, "0.0400")
    assert (cells["peak, MB"], cells["model, MB"], cells["bytes per weight"]) == ("8", "2", "1.000")
    assert "4 of 6 met" in text and "prompts 2" in text
