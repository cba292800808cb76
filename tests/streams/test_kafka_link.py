"""What of a dead letter fits into one message."""

from __future__ import annotations

import pytest

from streams.adapters.kafka_link import LARGEST_BODY, LARGEST_HEADERS, LARGEST_MESSAGE, fitting
from streams.adapters.record_sender import RecordSender

OURS = (("twin-error-class", b"too_large"), ("twin-error-offset", b"7"))


def test_what_fits_goes_out_as_it_came() -> None:
    headers = (("trace", b"x" * 100), *OURS)
    assert fitting(b"body", headers) == (b"body", headers)


def test_a_body_no_message_can_hold_is_left_out_and_said_to_be() -> None:
    body, headers = fitting(b"x" * (LARGEST_BODY + 1), OURS)
    assert body == b""
    assert headers[:2] == OURS
    assert headers[2][0] == "twin-error-omitted"
    assert str(LARGEST_BODY + 1).encode() in headers[2][1]


def test_large_headers_of_the_sender_are_left_out_and_ours_stay() -> None:
    body, headers = fitting(b"body", (("junk", b"x" * LARGEST_HEADERS), *OURS))
    assert body == b"body"
    assert headers == (*OURS, ("twin-error-omitted", b"the sender's headers"))


@pytest.mark.parametrize("name", ["x\ud800", "a\0b"])
def test_a_header_whose_name_cannot_be_sent_is_left_out_with_the_senders_others(name: str) -> None:
    # confluent-kafka ends the process with a segmentation fault on the first, and cuts the second to "a".
    body, headers = fitting(b"body", ((name, b"1"), ("trace", b"2"), (f"twin-{name}", b"3"), *OURS))
    assert body == b"body"
    assert headers == (*OURS, ("twin-error-omitted", b"the sender's headers: a name cannot be sent"))


def test_a_sender_is_told_of_a_name_that_cannot_be_sent_instead_of_ending() -> None:
    sender = RecordSender({"bootstrap.servers": "127.0.0.1:1"}, "records")
    with pytest.raises(ValueError, match="UTF-8 without NUL"):
        sender.send("p-1", b"{}", headers=[("x\ud800", b"1")])


def test_what_is_kept_always_fits_into_a_message() -> None:
    assert LARGEST_BODY + LARGEST_HEADERS < LARGEST_MESSAGE
