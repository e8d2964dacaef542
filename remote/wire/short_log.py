"""No record of a log is longer than this, whoever caused it: endpoint and worker log what clients sent."""

import logging

LONGEST = 4000  # characters


class Shortening(logging.Filter):
    """Takes the middle out of long messages. To be added to handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, shortened."""
        text = record.getMessage()
        if len(text) > LONGEST:
            half = LONGEST // 2
            record.msg, record.args = f"{text[:half]} ... {text[-half:]}", ()
        return True


def shorten_logs() -> None:
    """Have all handlers of the root logger shorten what they write."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Shortening())
