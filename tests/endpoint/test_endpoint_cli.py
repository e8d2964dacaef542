"""`velocity serve` as a process of its own, with a scheduler that runs nothing: start, refusals, stop, restart."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from served_app import manifest
from velocity_nodes.remote.endpoint.api.keys import Keys
from velocity_nodes.remote.endpoint.cli import build
from velocity_nodes.remote.endpoint.options import is_loopback, parse
from velocity_nodes.remote.endpoint.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
START = """
import sys
from dev.host import import_pack
import_pack()
sys.path.insert(0, sys.argv.pop(1))
from served_app import FakeScheduler
from velocity_nodes.remote.endpoint import cli
sys.exit(cli.main(make_scheduler=FakeScheduler))
"""
KEY = "a-key-that-was-chosen"


class Serving:
    """A process with its output in a file."""

    def __init__(self, folder: Path, *arguments: str, key: str | None = None, preexec=None) -> None:
        (folder / "comfyui").mkdir(exist_ok=True)
        (folder / "comfyui" / "main.py").touch()
        self.folder, self.log = folder, folder / "log.txt"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "VELOCITY_API_KEY"}
        if key:
            environment["VELOCITY_API_KEY"] = key
        command = [sys.executable, "-c", START, str(HERE), "serve", "--comfyui", str(folder / "comfyui")]
        command += ["--data", str(folder / "data"), "--port", str(self.port), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=preexec
            )

    def __enter__(self) -> "Serving":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ready(self) -> "Serving":
        end = time.monotonic() + 300
        while "ready: " not in self.text():
            assert self.process.poll() is None and time.monotonic() < end, self.text()
            time.sleep(0.05)
        return self

    def ask(self, path: str, key: str = KEY, body: dict | None = None, context=None, scheme: str = "http") -> dict:
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {key}")
        data = json.dumps(body).encode() if body else None
        with urllib.request.urlopen(request, data, timeout=120, context=context) as answer:
            return json.load(answer)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


def test_it_prints_a_new_key_once_and_what_the_client_needs(tmp_path):
    with Serving(tmp_path) as first:
        text = first.ready().text()
        key = (tmp_path / "data" / "key").read_text()
        assert f"VELOCITY_ENDPOINT=http://127.0.0.1:{first.port} VELOCITY_API_KEY={key}" in text
        snippet = next(line for line in text.splitlines() if line.startswith("    {"))
        assert json.loads(snippet)["default"] == {"url": f"http://127.0.0.1:{first.port}", "key": key}
        assert first.ask("/v1/capabilities", key)["protocol"] == 1
        assert first.stop() == 0
    with Serving(tmp_path) as second:
        second.ready()
        assert second.ask("/v1/capabilities", key)["protocol"] == 1
        assert second.stop(signal.SIGINT) == 0
        assert key not in second.text()


def test_a_chosen_key_is_never_printed(tmp_path):
    with Serving(tmp_path, key=KEY) as serving:
        serving.ready()
        assert serving.ask("/v1/capabilities")["protocol"] == 1
        assert serving.stop() == 0
        assert KEY not in serving.text()
        assert "Traceback" not in serving.text()
    assert not (tmp_path / "data" / "key").exists()


def test_a_second_endpoint_on_the_same_folder_is_refused(tmp_path):
    with Serving(tmp_path, key=KEY) as first:
        first.ready()
        with Serving(tmp_path, key=KEY) as second:
            assert second.process.wait(60) == 1
            assert "--data" in second.text()
        assert first.ask("/v1/health")["status"] == "ok"


def test_a_public_address_needs_a_chosen_key_and_warns_without_tls(tmp_path):
    with Serving(tmp_path, "--host", "0.0.0.0") as serving:
        assert serving.process.wait(60) == 1
        assert "VELOCITY_API_KEY" in serving.text() and "--keys" in serving.text()
    with Serving(tmp_path, "--host", "0.0.0.0", key=KEY) as serving:
        text = serving.ready().text()
        assert "ssh -L" in text and "--certificate" in text
        assert serving.ask("/v1/health")["status"] == "ok"


def test_a_taken_port_is_said_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Serving(tmp_path, "--port", port, key=KEY) as serving:
            assert serving.process.wait(60) == 1
            assert "in use" in serving.text() and "listens at" not in serving.text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate of this test")
def test_tls_with_the_given_certificate(tmp_path):
    certificate, private = tmp_path / "certificate.pem", tmp_path / "private.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(private)]
    subprocess.run(command, check=True, capture_output=True)
    options = ("--certificate", str(certificate), "--certificate-key", str(private))
    with Serving(tmp_path, *options, key=KEY) as serving:
        assert f"https://127.0.0.1:{serving.port}" in serving.ready().text()
        trusting = ssl.create_default_context(cafile=certificate)
        assert serving.ask("/v1/capabilities", context=trusting, scheme="https")["protocol"] == 1
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            serving.ask("/v1/health", scheme="https")


def test_a_killed_endpoint_knows_its_jobs_again(tmp_path):
    with Serving(tmp_path, key=KEY) as serving:
        job = serving.ready().ask("/v1/jobs", body=manifest())["job"]
        serving.process.kill()
        serving.process.wait()
    with Serving(tmp_path, key=KEY) as serving:
        answer = serving.ready().ask("/v1/jobs", body=manifest())
        assert (answer["job"], answer["state"]) == (job, "queued")


def test_it_stops_at_once_though_someone_follows_a_job(tmp_path):
    with Serving(tmp_path, key=KEY) as serving:
        job = serving.ready().ask("/v1/jobs", body=manifest())["job"]
        with socket.create_connection(("127.0.0.1", serving.port)) as follower:
            follower.settimeout(120)
            head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
            follower.sendall(head.encode())
            while b"event: queued" not in follower.recv(65536):
                pass
            assert serving.stop() == 0
        assert "graceful" not in serving.text(), "the server had to give up waiting for the follower"
        assert "Traceback" not in serving.text()


@pytest.mark.skipif(os.name != "posix", reason="the test fills the disk by a limit of POSIX systems")
def test_a_full_disk_is_said_so_and_leaves_nothing(tmp_path):
    import resource

    from velocity_nodes.remote.wire.blob import blob_name, encode_header

    def few_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    large, small = (encode_header("U8", (size,)) + b"\1" * size for size in (6 << 20, 1 << 20))
    with Serving(tmp_path, key=KEY, preexec=few_bytes) as serving:
        serving.ready()
        for data, status in ((large, 507), (small, 204)):
            url = f"http://127.0.0.1:{serving.port}/v1/blobs/{blob_name(data)}"
            request = urllib.request.Request(url, data, {"Authorization": f"Bearer {KEY}"}, method="PUT")
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    found = answer.status
            except urllib.error.HTTPError as error:
                found = error.code
                assert json.load(error)["error"]["code"] == "disk_full"
            assert found == status
        assert len([path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "--comfyui"),
        (["serve", "--comfyui", "nowhere"], "no ComfyUI"),
        (["serve", "--comfyui", ".", "--certificate", "x"], "--certificate-key"),
        (["serve", "--comfyui", ".", "--keys", "nowhere.json"], "nowhere.json"),
        (["serve", "--comfyui", ".", "--port", "70000"], "--port"),
        (["serve", "--comfyui", ".", "--workers", "0"], "--workers"),
        (["serve", "--comfyui", ".", "--keep-hours", "inf"], "--keep-hours"),
        (["sing"], "sing"),
    ],
)
def test_wrong_arguments_name_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").touch()
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_arguments_become_settings(tmp_path):
    (tmp_path / "main.py").touch()
    words = "serve --allow A B --preload m.safetensors --allow C --workers 2 --max-steps 50 --rate 2.5 --comfyui"
    settings, _ = parse([*words.split(), str(tmp_path), "--", "--cpu", "--", "--port"])
    assert (settings.allow, settings.preload, settings.workers) == (("A", "B", "C"), ("m.safetensors",), 2)
    assert (settings.limits.steps, settings.limits.rate, settings.limits.queue) == (50, 2.5, 256)
    assert settings.comfyui_arguments == ("--cpu", "--", "--port")
    assert settings.python == sys.executable


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_addresses_are_known(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_addresses_are_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.skipif(os.name == "nt", reason="modes of folders")
def test_a_data_folder_that_exists_becomes_private(tmp_path):
    data = tmp_path / "data"
    for folder in (data, data / "blobs", data / "results"):
        folder.mkdir(mode=0o755)
    build(Settings(tmp_path, "python", data), Keys((), chosen=True))
    modes = {folder.stat().st_mode & 0o777 for folder in (data, data / "blobs", data / "results")}
    assert modes == {0o700}
