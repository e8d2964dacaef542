"""Print the README's compatibility table, from the table that the code itself reads: `python -m dev.compatibility`."""

from acceleration.blocks.architectures import ARCHITECTURES, EXCEPTIONS

HEADER = """\
| Model | Also | Velocity Forecast | First Block Cache | Its tail-residual predictor |
|---|---|---|---|---|"""
UNET_ROW = "| Stable Diffusion 1.5, SDXL | 2.x, other UNets of core | yes | yes | no |"


def compatibility_table() -> str:
    """Return the table as markdown: one line per architecture in alphabetical order, then what is left out and why."""
    lines = [
        f"| {row.name} | {row.covers} | yes | yes | {'yes' if row.tail_residual else 'no'} |" for row in ARCHITECTURES
    ]
    lines = sorted([*lines, UNET_ROW], key=str.lower)
    left_out = [f"- `{path.rpartition('.')[2]}`: {reason}." for path, reason in EXCEPTIONS.items()]
    return "\n".join([HEADER, *lines, "", "First Block Cache does not take these models of core:", "", *left_out])


if __name__ == "__main__":
    print(compatibility_table())
