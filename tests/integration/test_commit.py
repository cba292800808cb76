"""The commit protocol's scripts on a real Redis: every answer. `test_commit_model.py` has what follows on what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
import redis

from streams.adapters.redis_rebuild import RebuildStore, Rows
from streams.adapters.redis_store import StoreLimits, connect
from streams.embedded import EmbeddedRedis
from streams.ports import (
    Answer,
    BatchOutcome,
    Claim,
    Lease,
    Outgoing,
    Recalled,
    StaleClaimError,
    StoredTwin,
    StoreRefusedError,
    StoreUnavailableError,
    Verdict,
)

PARTITION = 3
LIMITS = StoreLimits(outbox_messages=4, lease_ms=60_000)


class Desk:
    """A store driven from plain functions: one event loop, kept over calls."""

    def __init__(self, url: str, limits: StoreLimits = LIMITS) -> None:
        self.runner = asyncio.Runner()
        self.client = connect(url)
        self.store = RebuildStore(self.client, "ward", limits)

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()

    def check(self) -> None:
        self.runner.run(self.store.check())

    def acquire(
        self, owner: str = "a", generation: int = 1, start: int = 0, fingerprint: str = "f1"
    ) -> Lease:
        claim = Claim(generation, owner, f"instance-{owner}", fingerprint)
        return self.runner.run(self.store.acquire(PARTITION, claim, start))

    def apply(
        self,
        lease: Lease,
        begin: int,
        end: int,
        outcome: BatchOutcome | None = None,
        versions: dict[str, int] | None = None,
    ) -> Answer:
        return self.runner.run(self.store.apply(lease, begin, end, outcome or BatchOutcome(), versions or {}))

    def rewrite(
        self, lease: Lease, position: int, fingerprint: str, twins: dict[str, StoredTwin | None]
    ) -> Answer:
        rows = {p: b"" if one is None else msgspec.msgpack.encode(one) for p, one in twins.items()}
        return self.runner.run(self.store.rewrite(lease, position, fingerprint, Rows(rows, {}, {}), []))

    def ack(self, lease: Lease, last_id: str, topic_position: int | None = None) -> bool:
        return self.runner.run(self.store.ack(lease, "risk", last_id, topic_position))

    def recall(self, *patients: str) -> dict[str, Recalled]:
        return self.runner.run(self.store.recall(PARTITION, patients))

    def waiting(self, outbox: str = "risk") -> list[str]:
        name = "risk" if outbox == "risk" else "dead_letters"
        return [entry.id for entry in self.runner.run(self.store.pending(PARTITION, name, 100))]  # type: ignore[arg-type]

    def position(self) -> int:
        meta, _ = self.runner.run(self.store.read_standing(PARTITION))
        assert meta is not None
        return meta.position


@pytest.fixture
def desk(redis_client: redis.Redis, redis_server: EmbeddedRedis) -> Iterator[Desk]:
    """Drive a store on the session's emptied Redis."""
    desk = Desk(redis_server.url)
    yield desk
    desk.close()


def twin(number: int) -> StoredTwin:
    return StoredTwin(b"canonical-%d" % number, b"rest-%d" % number)


def risk(identifier: str, value: bytes | None = b"event") -> Outgoing:
    return Outgoing(identifier, "risk", b"p", (("ce_id", b"x"),), value)


def dead(identifier: str) -> Outgoing:
    return Outgoing(identifier, "dead_letters", b"p", (), b"bad")


def everything(redis_client: redis.Redis) -> dict[bytes, bytes | None]:
    """Every byte Redis holds, by key."""
    return {key: redis_client.dump(key) for key in redis_client.keys("*")}  # type: ignore[misc]


def test_first_acquire_starts_at_the_given_position_and_counts_epochs(desk: Desk) -> None:
    assert (desk.acquire(start=17).position, desk.acquire(start=99).position) == (17, 17)
    assert desk.acquire().epoch == 3


def test_applied_batch_is_read_back_whole(desk: Desk) -> None:
    lease = desk.acquire()
    outcome = BatchOutcome(
        twins={"p1": twin(1), "p2": twin(2)},
        standing={"p1": b"[1]"},
        index={"p1": b"{}", "p2": b"{}"},
        outgoing=[risk("4-1"), risk("4-2", None), dead("5-1")],
        counts={"applied": 6},
        trace=b"lines",
    )
    assert desk.apply(lease, 0, 6, outcome) == Answer(Verdict.OK, 6)
    assert desk.recall("p1", "p3") == {"p1": Recalled(twin(1), 1), "p3": Recalled(None, 0)}
    run, store = desk.runner.run, desk.store
    meta, standing = run(store.read_standing(PARTITION))
    assert meta is not None
    assert (meta.position, meta.fingerprint, standing) == (6, "f1", {"p1": b"[1]"})
    assert run(store.read_index(PARTITION))[1].keys() == {"p1", "p2"}
    assert run(store.read_counters(PARTITION))[1] == {"applied": 6}
    first, second = run(store.pending(PARTITION, "risk", 10))
    assert (first.id, first.value, first.headers) == ("4-1", b"event", (("ce_id", b"x"),))
    assert (second.id, second.value) == ("4-2", None)
    assert desk.waiting("dead_letters") == ["5-1"]
    assert [(entry.begin, entry.end) for entry in run(store.audit(PARTITION))] == [(0, 6)]


def test_empty_row_removes_the_standing_episodes(desk: Desk) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 1, BatchOutcome(standing={"p1": b"[1]"}))
    desk.apply(lease, 1, 2, BatchOutcome(standing={"p1": b""}))
    assert desk.runner.run(desk.store.read_standing(PARTITION))[1] == {}


def test_ten_thousand_twins_fit_one_batch(desk: Desk) -> None:
    lease = desk.acquire()
    outcome = BatchOutcome(twins={f"p{n}": twin(n) for n in range(10_000)})
    assert desk.apply(lease, 0, 10_000, outcome).verdict is Verdict.OK
    assert desk.recall("p9999")["p9999"] == Recalled(twin(9999), 1)


def test_batch_applied_twice_answers_ahead_and_changes_nothing(desk: Desk, redis_client: redis.Redis) -> None:
    lease = desk.acquire()
    outcome = BatchOutcome(twins={"p1": twin(1)}, outgoing=[risk("0-1")], counts={"applied": 1})
    desk.apply(lease, 0, 1, outcome)
    before = everything(redis_client)
    assert desk.apply(lease, 0, 1, outcome) == Answer(Verdict.AHEAD, 1)
    assert everything(redis_client) == before


@pytest.mark.parametrize(
    ("begin", "end", "outcome", "versions", "answer"),
    [
        (4, 6, BatchOutcome(), {}, Answer(Verdict.AHEAD, 5)),
        (6, 7, BatchOutcome(), {}, Answer(Verdict.BEHIND, 5)),
        (
            5,
            6,
            BatchOutcome(twins={"new": twin(9), "p1": twin(9)}, outgoing=[risk("5-1")]),
            {"p1": 7},
            Answer(Verdict.CONFLICT, 5, "twin 2 of 2 in the batch has version 1, not 7"),
        ),
        (
            5,
            6,
            BatchOutcome(twins={"p1": twin(9)}, outgoing=[risk("4-1")]),
            {"p1": 1},
            Answer(Verdict.CONFLICT, 5, "outbox risk is at 4-1 and cannot take 4-1"),
        ),
        (
            5,
            6,
            BatchOutcome(twins={"p1": twin(9)}, outgoing=[risk("5-2"), risk("5-1")]),
            {"p1": 1},
            Answer(Verdict.CONFLICT, 5, "outbox risk is at 5-2 and cannot take 5-1"),
        ),
        (
            5,
            6,
            BatchOutcome(twins={"p1": twin(9)}, outgoing=[risk(f"5-{n}") for n in range(1, 5)]),
            {"p1": 1},
            Answer(Verdict.FULL, 5, "risk"),
        ),
        (
            5,
            6,
            BatchOutcome(twins={"p1": twin(9)}, under="f9"),
            {"p1": 1},
            Answer(Verdict.CONFLICT, 5, "the library is f1, not f9"),
        ),
        (
            5,
            6,
            BatchOutcome(twins={"new": twin(9)}, under="f1", fingerprint="f2"),
            {},
            Answer(Verdict.CONFLICT, 5, "another library takes effect in 0 twins of 1"),
        ),
    ],
)
def test_refused_batch_changes_no_byte(
    desk: Desk,
    redis_client: redis.Redis,
    begin: int,
    end: int,
    outcome: BatchOutcome,
    versions: dict[str, int],
    answer: Answer,
) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 5, BatchOutcome(twins={"p1": twin(1)}, outgoing=[risk("4-1")]))
    before = everything(redis_client)
    assert desk.apply(lease, begin, end, outcome, versions) == answer
    assert everything(redis_client) == before


def test_activation_sets_the_library_with_the_twins_and_an_owner_must_have_it_from_then_on(
    desk: Desk,
) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 5, BatchOutcome(twins={"p1": twin(1)}))
    outcome = BatchOutcome(twins={"p1": twin(2), "new": twin(2)}, under="f1", fingerprint="f2")
    assert desk.apply(lease, 5, 6, outcome, {"p1": 1}).verdict is Verdict.OK
    assert desk.runner.run(desk.store.stands_under(PARTITION)) == "f2"
    with pytest.raises(StoreRefusedError, match="f2"):
        desk.acquire(fingerprint="f1")
    with pytest.raises(StoreRefusedError, match="f2"):
        desk.runner.run(desk.store.acquire(PARTITION, Claim(1, "b", "instance-b", "f1", ("f0",)), 0))
    claim = Claim(1, "b", "instance-b", "f1", ("f0", "f2"))
    again = desk.runner.run(desk.store.acquire(PARTITION, claim, 0))
    assert (again.fingerprint, again.position) == ("f2", 6)


def test_activation_may_bring_back_a_twin_that_a_rebuild_took_away(desk: Desk) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 5, BatchOutcome(twins={"p1": twin(1), "p2": twin(1)}))
    assert desk.rewrite(lease, 5, "f1", {"p2": None}).verdict is Verdict.OK
    assert desk.recall("p1", "p2") == {"p1": Recalled(twin(1), 1), "p2": Recalled(None, 2)}
    outcome = BatchOutcome(twins={"p1": twin(2), "p2": twin(2)}, under="f1", fingerprint="f2")
    assert desk.apply(lease, 5, 6, outcome, {"p1": 1, "p2": 2}) == Answer(Verdict.OK, 6)


def test_batch_larger_than_the_outbox_limit_fits_an_empty_outbox(desk: Desk) -> None:
    lease = desk.acquire()
    many = BatchOutcome(outgoing=[risk(f"0-{n}") for n in range(1, 10)])
    assert desk.apply(lease, 0, 1, many).verdict is Verdict.OK


def test_former_owner_is_fenced_and_learns_who_owns(desk: Desk, redis_client: redis.Redis) -> None:
    old = desk.acquire("a")
    new = desk.acquire("b", generation=2)
    before = everything(redis_client)
    assert desk.apply(old, 0, 1) == Answer(Verdict.FENCED, 0, "instance-b")
    assert not desk.ack(old, "0-1")
    assert everything(redis_client) == before
    assert not desk.runner.run(desk.store.owns(old))
    assert desk.runner.run(desk.store.owns(new))


def test_same_epoch_after_a_rollback_is_fenced_by_the_nonce(desk: Desk, redis_client: redis.Redis) -> None:
    empty = desk.acquire("a")
    redis_client.flushdb()
    assert desk.acquire("b").epoch == empty.epoch
    assert desk.apply(empty, 0, 1).verdict is Verdict.FENCED


def test_older_generation_cannot_take_over_a_live_owner(desk: Desk) -> None:
    lease = desk.acquire("b", generation=5)
    with pytest.raises(StaleClaimError, match="generation 4 of group ward is over, generation 5 owns it"):
        desk.acquire("a", generation=4)
    assert desk.apply(lease, 0, 1).verdict is Verdict.OK


def test_deleted_group_takes_over_after_the_lease(
    redis_client: redis.Redis, redis_server: EmbeddedRedis
) -> None:
    desk = Desk(redis_server.url, StoreLimits(lease_ms=0))
    desk.acquire("b", generation=5)
    assert desk.acquire("a", generation=1).epoch == 2
    desk.close()


def test_other_fingerprint_is_refused_and_names_the_rebuild(desk: Desk) -> None:
    desk.acquire(fingerprint="f1")
    with pytest.raises(
        StoreRefusedError, match=r"fingerprint f1, this worker has f2.*twin rebuild --partition 3"
    ):
        desk.acquire("b", fingerprint="f2")


def test_ack_drops_what_is_published_and_keeps_the_mark(desk: Desk) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 3, BatchOutcome(outgoing=[risk("0-1"), risk("1-1"), risk("1-2")]))
    assert desk.ack(lease, "1-1", topic_position=42)
    assert desk.waiting() == ["1-2"]
    again = desk.acquire()
    assert again.marks == {"risk": "1-1", "dead_letters": ""}
    meta, _ = desk.runner.run(desk.store.read_standing(PARTITION))
    assert meta is not None
    assert meta.risk_topic_position == 42


def test_mark_never_falls(desk: Desk) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 10, BatchOutcome(outgoing=[risk("9-1")]))
    desk.ack(lease, "9-1")
    desk.ack(lease, "10-1")
    desk.ack(lease, "9-2")
    assert desk.acquire().marks["risk"] == "10-1"


def test_outbox_keeps_its_order_after_it_was_emptied(desk: Desk) -> None:
    lease = desk.acquire()
    desk.apply(lease, 0, 10, BatchOutcome(outgoing=[risk("9-1")]))
    desk.ack(lease, "9-1")
    assert desk.apply(lease, 10, 11, BatchOutcome(outgoing=[risk("9-1")])).verdict is Verdict.CONFLICT


def test_restarted_redis_is_given_the_scripts_again(desk: Desk, redis_client: redis.Redis) -> None:
    lease = desk.acquire()
    redis_client.script_flush()
    assert desk.apply(lease, 0, 1).verdict is Verdict.OK


def test_memory_limit_refuses_the_whole_batch(desk: Desk, redis_client: redis.Redis) -> None:
    lease = desk.acquire()
    outcome = BatchOutcome(twins={"p1": twin(1)}, outgoing=[risk("0-1")])
    try:
        redis_client.config_set("maxmemory", 1_000_000)
        with pytest.raises(StoreUnavailableError, match="OutOfMemory"):
            desk.apply(lease, 0, 1, outcome)
        assert desk.position() == 0
        assert desk.waiting() == []
    finally:
        redis_client.config_set("maxmemory", 0)
    assert desk.apply(lease, 0, 1, outcome).verdict is Verdict.OK


def test_redis_that_may_evict_is_refused_at_the_start(desk: Desk, redis_client: redis.Redis) -> None:
    desk.check()
    try:
        redis_client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreRefusedError, match=r"maxmemory-policy is allkeys-lru.*CONFIG SET"):
            desk.check()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")


def test_dead_redis_is_said_to_be_unavailable_at_once() -> None:
    desk = Desk("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailableError):
        desk.acquire()
    desk.close()


def test_last_process_to_claim_an_instance_owns_it(desk: Desk) -> None:
    run, store = desk.runner.run, desk.store
    assert run(store.instance_owner("w1")) is None
    run(store.claim_instance("w1", "a"))
    run(store.claim_instance("w1", "b"))
    assert run(store.instance_owner("w1")) == "b"


WHOLE = BatchOutcome(
    twins={"p1": twin(8), "p2": twin(9), "p3": twin(10)},
    index={"p3": b"row"},
    counts={"records": 1},
    under="f1",
    fingerprint="f2",
)


@pytest.fixture
def pieces(redis_client: redis.Redis, redis_server: EmbeddedRedis) -> Iterator[Desk]:
    """Drive a store that puts the twins of a whole partition aside one by one."""
    desk = Desk(redis_server.url, replace(LIMITS, command_bytes=1))
    yield desk
    desk.close()


def whole_partition(desk: Desk) -> Lease:
    """Two twins, before another library takes effect."""
    lease = desk.acquire()
    assert desk.apply(lease, 0, 5, BatchOutcome(twins={"p1": twin(1), "p2": twin(2)})).verdict is Verdict.OK
    return lease


def test_twins_of_a_whole_partition_written_in_pieces_are_in_place_at_once_and_leave_nothing_aside(
    pieces: Desk, redis_client: redis.Redis
) -> None:
    lease = whole_partition(pieces)
    seen: list[bytes | None] = []

    def look() -> None:
        seen.append(redis_client.hget(pieces.store.keys(PARTITION).twins, "p1"))

    write = pieces.store.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}, look)
    assert pieces.runner.run(write) == Answer(Verdict.OK, 6)
    assert seen == [msgspec.msgpack.encode(twin(1))] * 3, (
        "a piece each, and the old twin is in place meanwhile"
    )
    stored = pieces.recall("p1", "p2", "p3")
    assert {name: tuple(one) for name, one in stored.items()} == {
        "p1": (twin(8), 2),
        "p2": (twin(9), 2),
        "p3": (twin(10), 1),
    }
    assert pieces.runner.run(pieces.store.patients(PARTITION)) == ["p1", "p2", "p3"]
    assert pieces.runner.run(pieces.store.stands_under(PARTITION)) == "f2"
    assert not redis_client.exists(pieces.store.keys(PARTITION).staged)


def test_pieces_that_nobody_put_in_place_change_no_twin_and_the_next_batch_removes_them(
    pieces: Desk, redis_client: redis.Redis
) -> None:
    lease = whole_partition(pieces)
    stage = pieces.store._stage(lease, "token", {"p1": twin(7), "p9": twin(7)}, lambda: None)
    assert pieces.runner.run(stage) is None
    assert redis_client.exists(pieces.store.keys(PARTITION).staged)
    assert pieces.recall("p1", "p9") == {"p1": Recalled(twin(1), 1), "p9": Recalled(None, 0)}
    assert pieces.apply(lease, 5, 6, BatchOutcome(counts={"records": 1})).verdict is Verdict.OK
    assert not redis_client.exists(pieces.store.keys(PARTITION).staged)
    assert pieces.recall("p1")["p1"].twin == twin(1)


def test_pieces_of_an_earlier_try_are_never_put_in_place_with_those_of_the_next(pieces: Desk) -> None:
    lease = whole_partition(pieces)
    pieces.runner.run(pieces.store._stage(lease, "token", {"p8": twin(7), "p9": twin(7)}, lambda: None))
    assert pieces.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}) == Answer(Verdict.OK, 6)
    assert pieces.runner.run(pieces.store.patients(PARTITION)) == ["p1", "p2", "p3"]


def test_pieces_of_an_owner_who_was_fenced_are_refused(pieces: Desk, redis_client: redis.Redis) -> None:
    lease = whole_partition(pieces)
    pieces.acquire("b", generation=2)
    before = everything(redis_client)
    answer = pieces.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1})
    assert (answer.verdict, answer.detail) == (Verdict.FENCED, "instance-b")
    assert everything(redis_client) == before


def test_pieces_lost_on_the_way_are_written_again_and_never_put_in_place_in_part(
    pieces: Desk, redis_client: redis.Redis
) -> None:
    lease, staged = whole_partition(pieces), pieces.store.keys(PARTITION).staged
    lose = iter([True])

    def set_back() -> None:
        if next(lose, False):
            redis_client.delete(staged)

    write = lambda: pieces.store.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}, set_back)  # noqa: E731
    with pytest.raises(StoreUnavailableError, match="set back"):
        pieces.runner.run(write())
    assert pieces.recall("p1")["p1"].twin == twin(1)
    assert pieces.runner.run(write()).verdict is Verdict.OK


def test_pieces_for_which_there_is_no_room_are_dropped_so_that_another_partition_may_write(
    pieces: Desk, redis_client: redis.Redis
) -> None:
    lease, staged = whole_partition(pieces), pieces.store.keys(PARTITION).staged
    put = []

    def fill() -> None:
        put.append(redis_client.exists(staged))
        redis_client.config_set("maxmemory", "1mb")  # less than Redis takes by itself: no script runs

    try:
        with pytest.raises(StoreUnavailableError):
            pieces.runner.run(pieces.store.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}, fill))
        assert put == [1]
        assert not redis_client.exists(staged)
    finally:
        redis_client.config_set("maxmemory", "0")
    assert pieces.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}).verdict is Verdict.OK


def test_pieces_of_which_some_are_gone_when_all_are_to_be_put_in_place_are_a_conflict(
    pieces: Desk, redis_client: redis.Redis
) -> None:
    lease, staged = whole_partition(pieces), pieces.store.keys(PARTITION).staged
    put = []

    def set_back() -> None:
        put.append(1)
        if len(put) == 3:
            redis_client.hdel(staged, "p2")

    write = pieces.store.apply(lease, 5, 6, WHOLE, {"p1": 1, "p2": 1}, set_back)
    assert pieces.runner.run(write) == Answer(Verdict.CONFLICT, 5, "2 twins of 3 are put aside")
    assert pieces.recall("p1")["p1"].twin == twin(1)
    assert not redis_client.exists(staged)


def test_a_full_outbox_has_the_pieces_written_once_however_often_it_is_asked(pieces: Desk) -> None:
    lease = whole_partition(pieces)
    full = [risk(f"5-{n}") for n in range(1, 5)]
    assert pieces.apply(lease, 5, 6, BatchOutcome(outgoing=full)).verdict is Verdict.OK
    telling = replace(WHOLE, outgoing=[risk("6-1")])
    written: list[int] = []
    write = lambda: pieces.store.apply(lease, 6, 7, telling, {"p1": 1, "p2": 1}, lambda: written.append(1))  # noqa: E731
    assert [pieces.runner.run(write()).verdict for _ in range(3)] == [Verdict.FULL] * 3
    assert len(written) == 3, "three twins, a piece each, once"
    assert pieces.ack(lease, "5-4")
    assert pieces.runner.run(write()).verdict is Verdict.OK
    assert len(written) == 3
    assert pieces.recall("p3")["p3"].twin == twin(10)
