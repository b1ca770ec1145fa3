"""What AWS is asked for a way to a machine's port."""

import boto3
import pytest
from botocore.stub import Stubber

from tuneyard.cluster import aws
from tuneyard.cluster.errors import ClusterError


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch) -> Stubber:
    client = boto3.client(
        "ssm",
        region_name="eu-west-1",
        aws_access_key_id="x",
        aws_secret_access_key="y",
    )
    monkeypatch.setattr(aws, "_client", lambda service, region: client)
    return Stubber(client)


REQUEST = {
    "Target": "i-0abc",
    "DocumentName": "AWS-StartPortForwardingSession",
    "Parameters": {"portNumber": ["8265"], "localPortNumber": ["40001"]},
}


def test_a_session_is_asked_for_and_its_secret_is_not_shown(ssm: Stubber) -> None:
    answer = {"SessionId": "s-1", "TokenValue": "session-secret", "StreamUrl": "wss://x"}
    ssm.add_response("start_session", answer, REQUEST)
    with ssm:
        session = aws.start_port_session("i-0abc", 8265, 40001, "eu-west-1")
    assert (session.id, session.region, session.request) == ("s-1", "eu-west-1", REQUEST)
    assert session.endpoint == "https://ssm.eu-west-1.amazonaws.com"
    assert session.response == answer
    assert "session-secret" not in repr(session)


def test_a_refusal_is_told(ssm: Stubber) -> None:
    ssm.add_client_error("start_session", "TargetNotConnected", "i-0abc is not connected.", expected_params=REQUEST)
    with ssm, pytest.raises(ClusterError, match=r"start a session with i-0abc: .*TargetNotConnected"):
        aws.start_port_session("i-0abc", 8265, 40001, "eu-west-1")


def test_a_session_is_ended(ssm: Stubber) -> None:
    ssm.add_response("terminate_session", {"SessionId": "s-1"}, {"SessionId": "s-1"})
    with ssm:
        aws.end_session("s-1", "eu-west-1")
    ssm.assert_no_pending_responses()
