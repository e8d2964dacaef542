"""The command line of `velocity serve`, as settings."""

import argparse
import dataclasses
import ipaddress
import math
import sys
from pathlib import Path

from .settings import Limits, Settings

EPILOG = """\
Everything behind -- goes to ComfyUI, for example: -- --base-directory D:/ComfyUI --highvram

The key comes from VELOCITY_API_KEY or --keys; otherwise one is made at the first start, printed once, and kept in the
data folder. From another machine without TLS, use a tunnel: ssh -L 8288:127.0.0.1:8288 THIS-MACHINE
"""
_OWN_NAMES = {"rate": "--rate", "burst": "--burst", "share": "--key-share"}  # not a --max-...
_HELP = {
    "queue": "unfinished jobs of all keys together",
    "uploads": "jobs of one key whose tensors have not all come",
    "share": "of queue, tensors, results and connections, for one of several keys",
    "steps": "steps of a sampler",
    "rate": "requests per second and key",
    "burst": "requests at once and key",
}


def parse(arguments: list[str]) -> tuple[Settings, argparse.Namespace]:
    """Return the settings, and what else was given (`keys`, `certificate`, `certificate_key`).

    Ends the process with a message for arguments that cannot be right, as argparse does.
    """
    own, comfyui_arguments = arguments, []
    if "--" in arguments:
        split = arguments.index("--")
        own, comfyui_arguments = arguments[:split], arguments[split + 1 :]
    parser, serve = _parsers()
    found = parser.parse_args(own)
    comfyui = found.comfyui.expanduser().resolve()
    if not (comfyui / "main.py").is_file():
        serve.error(f"--comfyui {found.comfyui} is no ComfyUI (it has no main.py): name the folder that main.py is in")
    if bool(found.certificate) != bool(found.certificate_key):
        serve.error("--certificate and --certificate-key go together: give both files, or neither")
    for file in filter(None, (found.certificate, found.certificate_key, found.keys)):
        if not file.is_file():
            serve.error(f"there is no file {file}: check the path")
    limits = Limits(**{field.name: getattr(found, f"limit_{field.name}") for field in dataclasses.fields(Limits)})
    names = ("python", "host", "port", "workers", "stall_seconds", "deadline_seconds", "keep_hours")
    names += ("blob_gigabytes", "result_gigabytes")
    settings = Settings(
        comfyui=comfyui,
        data=found.data.expanduser().resolve(),
        allow=tuple(found.allow),
        preload=tuple(found.preload),
        comfyui_arguments=tuple(comfyui_arguments),
        limits=limits,
        **{name: getattr(found, name) for name in names},
    )
    return settings, found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser("velocity", description="ComfyUI-Velocity's endpoint.")
    serve = parser.add_subparsers(required=True, metavar="serve").add_parser(
        "serve",
        help="run denoising jobs of other ComfyUIs on this machine",
        description="Runs denoising jobs of other ComfyUIs on this machine, in workers that are ComfyUIs themselves.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    add = serve.add_argument
    add("--comfyui", type=Path, required=True, metavar="PATH", help="the folder of ComfyUI, with main.py in it")
    add("--host", default=defaults["host"], help="address to listen at (default: %(default)s, this machine only)")
    add("--port", type=_port, default=defaults["port"], help="(default: %(default)s)")
    add(
        "--data", type=Path, default=Path.home() / ".velocity-endpoint", metavar="FOLDER", help="(default: %(default)s)"
    )
    add("--keys", type=Path, metavar="FILE", help='JSON: {"name": {"key": "...", "expires": "2027-01-01"}}')
    add("--allow", nargs="+", action="extend", default=[], metavar="CLASS", help="node classes to run beside core's")
    add("--preload", nargs="+", action="extend", default=[], metavar="MODEL", help="model files to load at the start")
    add("--workers", type=_count, metavar="N", help="(default: one per GPU, or one on the CPU)")
    add("--python", default=sys.executable, help="the Python that runs ComfyUI (default: this one)")
    add("--certificate", type=Path, metavar="FILE", help="for TLS: the certificate, PEM")
    add("--certificate-key", type=Path, metavar="FILE", help="for TLS: its private key, PEM")
    add(
        "--blob-gigabytes",
        type=_amount,
        default=defaults["blob_gigabytes"],
        metavar="N",
        help="cache of tensors (%(default)g)",
    )
    add(
        "--result-gigabytes",
        type=_amount,
        default=defaults["result_gigabytes"],
        metavar="N",
        help="results that wait; the oldest leave first (%(default)g)",
    )
    add(
        "--keep-hours",
        type=_amount,
        default=defaults["keep_hours"],
        metavar="N",
        help="how long results wait (%(default)g)",
    )
    add(
        "--stall-seconds",
        type=_amount,
        default=defaults["stall_seconds"],
        metavar="N",
        help="a silent worker hangs (%(default)g)",
    )
    add(
        "--deadline-seconds",
        type=_amount,
        default=defaults["deadline_seconds"],
        metavar="N",
        help="for one job (%(default)g)",
    )
    group = serve.add_argument_group("limits")
    for field in dataclasses.fields(Limits):
        option = _OWN_NAMES.get(field.name, "--max-" + field.name.replace("_", "-"))
        kind = _amount if field.type is float else _count
        text = f"{_HELP[field.name]} (%(default)s)" if field.name in _HELP else "(%(default)s)"
        group.add_argument(option, type=kind, default=field.default, dest=f"limit_{field.name}", metavar="N", help=text)
    return parser, serve


def _port(text: str) -> int:
    return _within(int(text), 1, 65535)


def _count(text: str) -> int:
    return _within(int(text), 1, 1 << 48)


def _amount(text: str) -> float:
    return _within(float(text), 1e-6, math.inf)


def _within(number: float, least: float, most: float) -> float:
    if not least <= number <= most or math.isinf(number):
        raise argparse.ArgumentTypeError(f"{number} is not between {least} and {most}")
    return number
