"""Check that imports only go down: `python -m dev.imports`. The contracts are in pyproject.toml."""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, output
from importlinter.cli import lint_imports

from dev.host import import_pack


class NoCircles(Contract):
    """No two files import each other, on whatever detour, also not for types."""

    type_name = "no_circles"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find one circle, if there is any."""
        for file in sorted(graph.modules):
            for imported in graph.find_modules_directly_imported_by(file):
                back = graph.find_shortest_chain(imported, file)
                if back:
                    return ContractCheck(kept=False, metadata={"circle": [file, *back]})
        return ContractCheck(kept=True)

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the circle, and what to do."""
        output.print_error(" -> ".join(check.metadata["circle"]))
        output.print_error("Put what both need into a file below both, a Protocol where it is a type.")


if __name__ == "__main__":
    import_pack()  # the folder need not be called velocity_nodes: its contents are found through this module
    sys.exit(lint_imports(no_cache=True, no_logo=True))
