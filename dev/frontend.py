"""ComfyUI's own frontend in a real browser, driven through Playwright: load a workflow, read it back, press Run."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .client import ComfyClient

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
)
COMPLAINTS = ("[data-testid=error-overlay]", ".p-toast-message-error", "[role=dialog]", "[role=alertdialog]")
TIMEOUT_MS = 300_000  # a hang, not a slow machine
READY = "() => window.app?.graph && window.app.extensionManager && document.querySelector('#graph-canvas')"


def find_browser() -> str | None:
    """Return the path of a Chromium: `VELOCITY_CHROMIUM`, or the first one on the PATH, or None."""
    return os.environ.get("VELOCITY_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


class Frontend:
    """One page with ComfyUI's frontend. `problems` collects uncaught script errors; the screen is asked."""

    def __init__(self, page: "Page") -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def load(self, workflow: Path) -> None:
        """Open a workflow file (UI format) the way a user does: through the file input."""
        self.problems.clear()
        self.page.evaluate("() => window.app.graph.clear()")  # so that the wait below cannot see the workflow before
        self.page.locator("#comfy-file-input").set_input_files(str(workflow))
        count = len(json.loads(workflow.read_text(encoding="utf-8"))["nodes"])
        self.page.wait_for_function("n => window.app.graph.nodes.length === n", arg=count)
        self.page.wait_for_timeout(500)  # what complains about a workflow does so after it is shown

    def prompt(self) -> dict:
        """Return the graph on the canvas in API format, as the Run button would send it."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def serialized(self) -> dict:
        """Return the graph on the canvas in UI format, as Save would write it."""
        return self.page.evaluate("() => window.app.graph.serialize()")

    def missing_node_types(self) -> list[str]:
        """Return the types of the nodes on the canvas that nobody has registered."""
        return self.page.evaluate(
            "() => window.app.graph.nodes.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types))"
        )

    def complaints(self) -> list[str]:
        """Return the text of every error that is on the screen, and every uncaught script error since `load`."""
        return self._shown_complaints().all_inner_texts() + self.problems

    def _shown_complaints(self) -> "Locator":
        return self.page.locator(", ".join(f"{selector}:visible" for selector in COMPLAINTS))

    def wait_for_complaint(self, text: str) -> None:
        """Wait until an error that has `text` in it is on the screen."""
        self._shown_complaints().filter(has_text=text).first.wait_for()

    def wait_until_calm(self) -> None:
        """Wait until no error is on the screen: those about the workflow before may stay for a moment."""
        self._shown_complaints().first.wait_for(state="hidden")

    def press_run(self, timeout: float = 600) -> str:
        """Press the Run button and return the event that ended the execution: "execution_success" or another.

        Raises `playwright.sync_api.TimeoutError` when none comes in `timeout` seconds.
        """
        self.page.evaluate(
            """() => {
                window.velocityEnd = null;
                for (const name of ["execution_success", "execution_error", "execution_interrupted"])
                    window.app.api.addEventListener(name, () => { window.velocityEnd = name; }, { once: true });
            }"""
        )
        self.page.locator("[data-testid=queue-button]").first.click()
        end = self.page.wait_for_function("() => window.velocityEnd", timeout=timeout * 1000)
        return end.json_value()


@contextmanager
def open_frontend(server: ComfyClient, nodes_2: bool, size: tuple[int, int] = (1600, 900)) -> Iterator[Frontend]:
    """Open the frontend of `server` in a headless browser, with Nodes 2.0 on or off; `size` in pixels.

    Raises `RuntimeError` when there is no browser.
    """
    from playwright.sync_api import sync_playwright

    browser_path = find_browser()
    if browser_path is None:
        raise RuntimeError("no Chromium found: install chromium, or name one in VELOCITY_CHROMIUM")
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes_2})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=list(FLAGS))
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(TIMEOUT_MS)
        frontend = Frontend(page)
        page.goto(server.url)
        page.wait_for_function(READY)
        page.locator(".p-blockui-mask").wait_for(state="hidden")
        yield frontend
        browser.close()
