"""A connection to a cluster's head: a tunnel to its dashboard, and the header with the token."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tuneyard.cluster.access.token import authorization, read_token
from tuneyard.cluster.access.tunnel import LOOPBACK, LinkError, Tunnel
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory

ANSWER_S = 20.0
"""For the dashboard to answer through an open tunnel."""
_POLL_S = 0.2


class Connection:
    """The way to one cluster's dashboard, which can be made anew when it broke.

    Attributes:
        url: of the dashboard on this machine; another one after each `renew`.
        headers: what every request must carry; a secret.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.headers = authorization(read_token(inventory))
        self._tunnel: Tunnel | None = None

    @property
    def url(self) -> str:
        """Such as http://127.0.0.1:40001."""
        assert self._tunnel is not None, "connect() gives an open connection"
        return f"http://{LOOPBACK}:{self._tunnel.local_port}"

    @property
    def alive(self) -> bool:
        """Is the tunnel open, as far as is known here?"""
        return self._tunnel is not None and self._tunnel.alive

    def renew(self) -> None:
        """Close what is open and open it anew.

        Raises:
            LinkError: the head cannot be reached, or does not answer now.
            ClusterError: it answers, and refuses the token; or a program is missing here.
        """
        self.close()
        inventory = self.inventory
        tunnel = Tunnel(inventory.head, inventory.dashboard_port, region=inventory.region)
        try:
            self._tunnel = tunnel.__enter__()
            self._wait_for_dashboard()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the tunnel; no error where there is none."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()

    def get(self, path: str, *, timeout_s: float = 10.0) -> Any:
        """The JSON at this path of the dashboard, such as `/api/version`.

        Raises:
            LinkError: no answer.
            ClusterError: the token is refused, or the answer is an error.
        """
        return self.send("GET", path, timeout_s=timeout_s)

    def send(self, method: str, path: str, *, timeout_s: float = 10.0) -> Any:
        """The JSON that the dashboard answers to a request without a body; raises as `get`."""
        request = urllib.request.Request(f"{self.url}{path}", method=method, headers=self.headers)  # noqa: S310  (http, by `url`)
        # No proxy of the environment: the way is over our own loopback, and the header is a secret.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(500).decode(errors="replace").strip()
            raise self._refusal(error.code, path, text) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = self._tunnel.why() if self._tunnel is not None else ""
            raise LinkError(
                f"The head of cluster {self.inventory.name} does not answer: {error}. {said}".rstrip()
            ) from error

    def _wait_for_dashboard(self) -> None:
        """It may be up to some seconds behind the machine itself."""
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                self.get("/api/version")
                return
            except LinkError:
                if not self.alive or time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _refusal(self, status: int, path: str, text: str) -> ClusterError:
        name = self.inventory.name
        if status in (401, 403):
            return ClusterError(
                f"Cluster {name} refuses the token ({status}). It is another cluster's, or was changed since: apply "
                f"the cluster again (tuneyard up --cluster {name}), or copy the token from the machine that did."
            )
        return ClusterError(f"Cluster {name} answers {status} to {path}: {text}")


@contextmanager
def connect(inventory: Inventory) -> Iterator[Connection]:
    """An open connection to the cluster's head; closed afterwards, whatever happens.

    Raises:
        ClusterError: as `Connection.renew`.
    """
    connection = Connection(inventory)
    try:
        connection.renew()
        yield connection
    finally:
        connection.close()
