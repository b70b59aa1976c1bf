import logging
import re

LINK = re.compile(r"(/invitations/)[^/\s?]+")


class HideLinks(logging.Filter):
    """The address of a refused request is logged, and an invitation's is a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = LINK.sub(r"\1...", record.getMessage()), None
        return True
