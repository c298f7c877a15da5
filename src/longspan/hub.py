"""Whether the hub can be reached, asked once: its libraries would try again for a minute."""

import functools
import os
import socket
import threading
import urllib.request
from urllib.parse import urlsplit

from huggingface_hub import constants

SECONDS = 10.0  # the longest that a name and a connection may take


@functools.cache
def unreachable() -> str | None:
    """Why the hub cannot be reached; its libraries look into their caches alone then.

    None where it can be, where the user has said that it shall not be (`HF_HUB_OFFLINE`), and
    where a proxy stands between, which is left to answer.
    """
    if constants.is_offline_mode():
        return None
    place = urlsplit(constants.ENDPOINT)
    host, port = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
    if place.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    reason = _failure(host, port)
    if reason is None:
        return None
    constants.HF_HUB_OFFLINE = True  # read at every call, as of huggingface_hub 1.0
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported, or started, later
    return f"{host} cannot be reached: {reason}"


def _failure(host: str, port: int) -> str | None:
    found: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), SECONDS).close()
            found.append(None)
        except OSError as error:
            found.append(error.strerror or str(error))

    # a thread, as nothing bounds the time that a name may take
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else f"no answer in {SECONDS:g} seconds"
