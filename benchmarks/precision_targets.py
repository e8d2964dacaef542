"""What the issue asks of Load Diffusion Model+, the verdict, and the table. Pure functions on `Row`s."""

from collections.abc import Sequence
from dataclasses import dataclass

from .report import verdict_lines
from .targets import Verdict

CORE_FAST = "core fp8_e4m3fn_fast"
JUDGED = ("ours fp8 fast", "ours fp8 scaled")
MOST_ERROR = 0.5  # of core's
MB = 1e6
HEAD = (
    "| method | error of a call | PSNR mean | PSNR worst | load, s | peak, MB | with the file's pages, MB "
    "| model, MB | file, MB | 16-bit rest: model, MB | bytes per weight | tiny |"
)
RULE = "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"


@dataclass(frozen=True)
class Row:
    """One method. `error`: relative L2 of a call; PSNR in dB; both and `tiny_*` on the tiny Flux, the rest on the
    Flux-shaped file. Peaks are bytes above the level before the load, sizes are bytes; `size_16` and
    `tiny_size` with what is kept in 16 bits, as on a GPU."""

    method: str
    error: float
    psnr_mean: float
    psnr_worst: float
    seconds: float
    peak_private: int
    peak_total: int
    size: int
    size_16: int
    file_size: int
    weights: int
    tiny_size: int
    tiny_weights: int


def judge(rows: Sequence[Row]) -> list[Verdict]:
    """Return the verdict on every target for each of `JUDGED`; nothing without core's row to compare with."""
    by_name = {row.method: row for row in rows}
    core = by_name.get(CORE_FAST)
    ours = [by_name[name] for name in JUDGED if core and name in by_name]
    verdicts = []
    for row in ours:
        share = row.error / core.error
        measured = f"{share:.2f} ({row.error:.4f} against {core.error:.4f})"
        wanted = f"at most {MOST_ERROR:g} of {CORE_FAST}'s"
        verdicts.append(Verdict(f"{row.method}, error of a call", wanted, measured, share <= MOST_ERROR))
        for name, attribute in (
            ("peak memory of the load", "peak_private"),
            ("peak with the file's pages", "peak_total"),
            ("size of the model", "size"),
            ("size of the saved file", "file_size"),
            ("size of the model, what is kept in 16 bits", "size_16"),
        ):
            verdicts.append(_no_more(row, core, name, attribute))
    return verdicts


def _no_more(row: Row, core: Row, name: str, attribute: str) -> Verdict:
    mine, others = getattr(row, attribute), getattr(core, attribute)
    measured = f"{mine / MB:.1f} MB against {others / MB:.1f} ({mine / max(others, 1) - 1:+.2%})"
    return Verdict(f"{row.method}, {name}", f"no more than {CORE_FAST}", measured, mine <= others)


def markdown(notes: dict[str, str | int], rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    """Return the whole report: what it was measured on, the table, the targets."""
    lines = ["# Precisions of the loader", "", ", ".join(f"{name} {value}" for name, value in notes.items()), ""]
    lines += [HEAD, RULE, *(_line(row) for row in rows), ""]
    return "\n".join([*lines, *verdict_lines(verdicts)])


def _line(row: Row) -> str:
    sizes = (row.peak_private, row.peak_total, row.size, row.file_size, row.size_16)
    cells = (
        row.method,
        f"{row.error:.4f}",
        f"{row.psnr_mean:.1f}",
        f"{row.psnr_worst:.1f}",
        f"{row.seconds:.1f}",
        *(f"{size / MB:.0f}" for size in sizes),
        f"{row.size_16 / row.weights:.3f}",
        f"{row.tiny_size / row.tiny_weights:.3f}",
    )
    return f"| {' | '.join(cells)} |"
