"""A deadline is the smaller one of the client's and the operator's."""

import time
from types import SimpleNamespace

import pytest
from velocity_nodes.remote.endpoint.scheduling.overdue import _overdue


@pytest.mark.parametrize(("wanted", "holds"), [(0, 60.0), (10, 10), (3600, 60.0)])
def test_the_operators_deadline_is_never_exceeded(wanted: float, holds: float):
    job = SimpleNamespace(manifest={"deadline_seconds": wanted})
    now = time.monotonic()
    late, in_time = (SimpleNamespace(live=[job], started=now - holds - more) for more in (1, -1))
    assert list(_overdue(60.0, late, now)) == [(job, holds)]
    assert list(_overdue(60.0, in_time, now)) == []
