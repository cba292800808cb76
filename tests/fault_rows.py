"""The rows of the fault matrix, as docs/reliability.md shows them: what is broken, and what it is held against."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row.

    Attributes:
        fault: What is broken on purpose.
        compared: What the outcome is compared with, beside the invariants.
    """

    fault: str
    compared: str


# The 28 rows, and those that were met on the way.
ROWS: dict[str, Row] = {
    "1": Row(
        "worker killed at each fail point and at random, four at a time from start-up on",
        "an undisturbed run; the oracle; the audit; a fold",
    ),
    "2": Row("zombie; two workers with one instance id", "a fold"),
    "3": Row(
        "delayed acquire, of an earlier and of the same generation; a stopped worker's held back on its way to Redis",
        "the oracle; the epochs",
    ),
    "4": Row(
        "broker killed and stopped in order, one node; on three nodes leaders killed, and each node restarted in order",
        "an undisturbed run; the oracle; acknowledged against the log",
    ),
    "5": Row(
        "Redis killed, `everysec` and `always`, back after 0 to 10 s; a node of a Redis Cluster killed for a while, "
        "before and after a worker starts",
        "an undisturbed run; a fold; the oracle",
    ),
    "6": Row(
        "append-only file torn; old copy put in place; a replica without the newest writes takes over",
        "the oracle; a fold",
    ),
    "7": Row(
        "Redis stopped, and refused, for 30 s: no rebalance, CPU below 20 %, back within 5 s", "the oracle"
    ),
    "8": Row(
        "network between worker and Kafka, and Redis, cut beyond the session, both ways and one way; another worker "
        "takes over",
        "the oracle",
    ),
    "9": Row(
        "slow, muted, reset and refused connections to Redis, and to Kafka: a lost reply is found applied",
        "the oracle; the worker's log",
    ),
    "10": Row("records twice, a group set back", "an undisturbed run; the oracle"),
    "11": Row("out of order within the limits", "the digest of the set"),
    "12": Row("at the limits of lateness, a millisecond beyond, and far beyond", "the oracle"),
    "13": Row(
        "a worker's clock 1 h ahead and too fast, and set back by hours again and again; device clocks 10 years ahead, "
        "a year back, no number",
        "the oracle",
    ),
    "14": Row(
        "poison of eleven kinds; a corpus of 848 broken records; refused records sent again",
        "an undisturbed run; the oracle; each dead letter with its record",
    ),
    "15": Row(
        "a record of 2 MiB; one byte below, at and above each limit, the broker's too",
        "the oracle; each dead letter with its record",
    ),
    "16": Row(
        "a patient of whom very many records come: other partitions are done first, and 99 of 100 of their records "
        "wait at most twice as long, and half a second, as without him",
        "the oracle",
    ),
    "17": Row("workers come and go during a replay, which never stands still for 10 s", "the oracle"),
    "18": Row(
        "lag beyond retention: explicit stop; ten times the usual lag, and Redis away meanwhile, in 32 MB more",
        "exit status 65; the oracle; VmHWM",
    ),
    "19": Row("disk full, `everysec` and `always`: Redis did refuse", "the oracle"),
    "20": Row("out of memory; an evicting policy refused", "the oracle; exit status 78"),
    "21": Row(
        "a library activated in mid-stream, workers killed round it and between the pieces it writes, "
        "Redis emptied after it; a worker without it",
        "the oracle; the bytes before; exit status 78",
    ),
    "22": Row(
        "Redis emptied, restored from an old copy, and from a snapshot as the runbook says",
        "the oracle; the bytes before; a fold",
    ),
    "23": Row("consumer group deleted", "the oracle"),
    "24": Row("partitions added: refused", "exit status 78"),
    "25": Row("risk topic takes nothing: the intake pauses", "the oracle"),
    "26": Row(
        "a listener of the API takes a byte a second: cut off, others told, goes on where it stood",
        "the risk topic",
    ),
    "27": Row(
        "a worker of another release is refused and the first goes on; a rebuild hands over in mid stream",
        "the oracle, of each release; exit status 78",
    ),
    "28": Row("SIGTERM at any moment of four workers' lives under load, 200 times", "the oracle; the audit"),
    "transactions": Row("markers and aborted records in the input", "an undisturbed run; a fold"),
    "NOSCRIPT": Row("Redis restarted without its scripts", "as row 5"),
    "late Kafka": Row("worker started while Kafka is down", "a fold"),
    "header": Row("header name that is not UTF-8", "the oracle"),
    "forgetting": Row(
        "a patient forgotten, workers killed round it, Redis emptied after it",
        "the oracle; the bytes before; 410",
    ),
    "I8": Row("recovery within 5 s of a killed worker, and of Redis that is back", "the oracle"),
}
