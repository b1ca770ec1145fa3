"""How far two clocks are apart, and how sure that is: from the times of a question and its answer.

The arithmetic of NTP (RFC 5905, section 8): with the question sent at t0 and its answer back at t3 by our clock, and
received at t1 and answered at t2 by theirs, the offset is ((t1 - t0) + (t2 - t3)) / 2, and wrong by at most half of
the time that both were under way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from tuneyard.cluster.amounts import seconds_text
from tuneyard.cluster.doctor.findings import Finding, failure, ok, warning

BETWEEN = "clocks"
_SYNCHRONIZE = "Let each machine keep its time by NTP: timedatectl set-ntp true, or chrony."
_APART_S = 1.0
_FAR_APART_S = 60.0
_S3_APART_S = 5.0
_S3_REFUSES_S = 600.0
"""S3 refuses requests that are signed 15 minutes beside its own time."""

_DATE_STEP_S = 1.0
"""An HTTP Date header has whole seconds, cut off."""


@dataclass(frozen=True, slots=True)
class Offset:
    """Their clock minus ours, in seconds; the truth is within `bound_s` of it."""

    offset_s: float
    bound_s: float

    @property
    def at_least_s(self) -> float:
        """So far the clocks are apart for certain."""
        return max(0.0, abs(self.offset_s) - self.bound_s)

    def __str__(self) -> str:
        return f"{seconds_text(self.offset_s)} ± {seconds_text(self.bound_s)}"


def offset_of(sent_s: float, received_there_s: float, answered_there_s: float, back_s: float) -> Offset:
    """The offset that one question and its answer show."""
    offset = ((received_there_s - sent_s) + (answered_there_s - back_s)) / 2
    under_way = (back_s - sent_s) - (answered_there_s - received_there_s)
    return Offset(offset, max(0.0, under_way / 2))


def surest(offsets: Iterable[Offset]) -> Offset:
    """Of several measurements of one clock the one with the smallest bound: it waited the least on the way."""
    return min(offsets, key=lambda offset: offset.bound_s)


def offset_of_date(header: str, sent_s: float, back_s: float) -> Offset:
    """The offset that an HTTP answer's Date header shows. Raises ValueError for what is no date."""
    there = parsedate_to_datetime(header).timestamp()
    # The answer was dated at some moment between the two, of a second that was cut off.
    middle = offset_of(sent_s, there, there + _DATE_STEP_S, back_s)
    return Offset(middle.offset_s, (back_s - sent_s + _DATE_STEP_S) / 2)


def judge_nodes(offsets: Mapping[tuple[str, str], Offset]) -> Finding:
    """The finding about the clocks of pairs of nodes."""
    worst = max(offsets, key=lambda pair: offsets[pair].at_least_s)
    far, offset = offsets[worst].at_least_s, offsets[worst]
    data = {
        "offsets": [
            {"of": there, "against": here, "offset_s": one.offset_s, "bound_s": one.bound_s}
            for (here, there), one in offsets.items()
        ]
    }
    if far <= _APART_S:
        widest = max(abs(one.offset_s) + one.bound_s for one in offsets.values())
        return ok(BETWEEN, f"at most {seconds_text(widest)} apart", data)
    here, there = worst if offset.offset_s > 0 else reversed(worst)
    told = f"{there} is ahead of {here} by {seconds_text(abs(offset.offset_s))} ± {seconds_text(offset.bound_s)}"
    return (failure if far > _FAR_APART_S else warning)(BETWEEN, told, _SYNCHRONIZE, data)


def judge_server(name: str, offset: Offset) -> Finding:
    """The finding about this machine's clock against that of an S3 server."""
    data = {"offset_s": offset.offset_s, "bound_s": offset.bound_s}
    if offset.at_least_s <= _S3_APART_S:
        return ok(name, f"within {seconds_text(abs(offset.offset_s) + offset.bound_s)} of the server's", data)
    which = "behind" if offset.offset_s > 0 else "ahead of"
    told = f"this machine's clock is {seconds_text(abs(offset.offset_s))} {which} the server's"
    if offset.at_least_s > _S3_REFUSES_S:
        return failure(name, told, f"S3 refuses requests from 15 minutes on. {_SYNCHRONIZE}", data)
    return warning(name, told, _SYNCHRONIZE, data)
