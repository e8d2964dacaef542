"""Texts that others wrote, cut to a length that may be kept: endpoint and worker log what clients sent."""

import logging

LONGEST = 4000  # characters of a log's record


def shortened(text: str, longest: int) -> str:
    """Return the text, without its middle if it is longer than that."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


class Shortening(logging.Filter):
    """Takes the middle out of long messages. To be added to handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, shortened."""
        text = record.getMessage()
        if len(text) > LONGEST:
            record.msg, record.args = shortened(text, LONGEST), ()
        return True


def shorten_logs() -> None:
    """Have all handlers of the root logger shorten what they write."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Shortening())
