"""First on PYTHONPATH: every process refuses to speak to any host, loopback included, and notes who tried."""

import os
import sys
import traceback

EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg")


def refuse(event: str, arguments: tuple) -> None:
    by_name = event in ("socket.getaddrinfo", "socket.gethostbyname")
    if not by_name and not (event in EVENTS and isinstance(arguments[1], tuple)):  # a path is of this machine
        return
    with open(os.environ["NETWORK_LOG"], "a", encoding="utf-8") as log:
        target = arguments[0] if by_name else arguments[1]
        log.write(f"{event} {target!r}\n" + "".join(traceback.format_stack(limit=12)) + "\n")
    raise OSError(f"no network in this test: {event}")


sys.addaudithook(refuse)
