"""An EC2 instance's own view of itself: the instance metadata service, version 2 (token first, one hop).

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

import datetime
import http.client
import json
import time

from tuneyard.cluster.errors import ClusterError

ADDRESS = "169.254.169.254"
TIMEOUT_S = 2.0
TOKEN_S = 21600
"""The longest that a token lives; a new one is fetched after half of it."""


class Metadata:
    """Asks the service; no proxy is ever between. Raises ClusterError where it does not answer."""

    def __init__(self, address: str = ADDRESS) -> None:
        self._address = address
        self._token = ""
        self._fetched = float("-inf")

    def get(self, path: str) -> str | None:
        """What lies under /latest/meta-data/; None where nothing does, which is how there is no notice."""
        for _ in range(2):
            if not self._token or time.monotonic() - self._fetched > TOKEN_S / 2:
                self._fetch_token()
            status, text = self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            if status == http.client.OK:
                return text
            if status == http.client.NOT_FOUND:
                return None
            self._token = ""  # 401: it has expired, or the machine was stopped and started
        raise ClusterError(f"The metadata service answers {status} to {path}: {text.strip()}")

    def instance_id(self) -> str:
        """This machine's id."""
        found = self.get("instance-id")
        if found is None:
            raise ClusterError("The metadata service does not know this machine's instance id: is it an EC2 instance?")
        return found

    def _fetch_token(self) -> None:
        status, text = self._ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)})
        if status != http.client.OK:
            raise ClusterError(f"The metadata service gives no token: {status} {text.strip()}")
        self._token, self._fetched = text, time.monotonic()

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ClusterError(f"The metadata service at {self._address} does not answer: {error}") from error
        finally:
            connection.close()


def spot_deadline(text: str) -> datetime.datetime:
    """When the machine goes, from what `spot/instance-action` says: {"action": …, "time": "2026-09-18T08:22:00Z"}.

    Raises:
        ClusterError: it says something else.
    """
    try:
        return datetime.datetime.fromisoformat(json.loads(text)["time"])
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            f"What the metadata service says of spot/instance-action is not understood: {text}"
        ) from error
