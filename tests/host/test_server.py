"""The server harness itself: what goes wrong at start is told, and nothing is left behind."""

import pytest

from dev.server import ComfyServer


def test_a_failed_start_shows_the_log_and_cleans_up() -> None:
    server = ComfyServer(extra_args=["--no-such-flag"])
    with pytest.raises(RuntimeError, match="(?s)ended with code 2 while starting.*unrecognized arguments: --no-such"):
        server.__enter__()
    assert not server.folder.exists()


def test_a_slow_start_is_given_up_and_the_process_ended() -> None:
    server = ComfyServer(start_timeout=0.5)
    with pytest.raises(TimeoutError, match="did not answer within 0.5 s"):
        server.__enter__()
    assert server.process.poll() is not None and not server.folder.exists()


def test_without_comfyui_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", "nowhere")
    with pytest.raises(RuntimeError, match="python -m nox"):
        ComfyServer()
