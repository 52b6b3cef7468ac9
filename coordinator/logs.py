"""Log lines on stderr: text for people, one JSON object a line for machines.

``guest=``, ``node=``, ``generation=``, ``migration=`` and ``operation=`` in a message become fields of the JSON.
"""

from __future__ import annotations

import json
import logging
import re
import sys

_FIELDS = re.compile(r"\b(guest|node|generation|migration|operation)=(\S+)")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        out: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        out.update({key: value.rstrip(":,;") for key, value in _FIELDS.findall(message)})
        if record.exc_info:
            out["exception"] = self.formatException(record.exc_info)
        return json.dumps(out)


def setup(form: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("hypercorn.access", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
