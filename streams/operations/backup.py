"""`twin ops backup`: a snapshot by Redis itself, copied, and looked into before it is needed.

The log is the truth; a snapshot saves the time of reading it again, and is all there is of what the log no longer
holds. Redis's own BGSAVE makes it, in one moment of all partitions. What this adds is the look: a Redis of its own
loads the copy, and each partition is compared with the log and with the libraries here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from streams.adapters.redis_client import connect, unavailable
from streams.embedded.ports import LOOPBACK, free_ports
from streams.embedded.processes import Process, ProcessError
from streams.embedded.redis import redis_server, word
from streams.operations import OperationError
from streams.operations.status import Stands, misfits, status
from streams.settings import Settings

SNAPSHOT = "dump.rdb"
LOG = "redis.log"
SAVED_WITHIN_S = 600.0
LOADED_WITHIN_S = 600.0
LOOK_EVERY_S = 0.1
BLOCK = 1 << 20
# It names every patient: for nobody but who runs this.
FILE_MODE, FOLDER_MODE = 0o600, 0o700
# Between the last byte of a file and Redis's word that it is saved, whole seconds and the disk's own haste.
SLACK_S = 2.0
# What Redis complains of, once it has begun; what it warns of before is about the machine.
COMPLAINT = re.compile(r"^\d+:M .*? # (?!WARNING)(.+?)\.?$", re.MULTILINE)


class Saved(NamedTuple):
    """A snapshot.

    Attributes:
        server_file: Where Redis wrote it, on its machine.
        copy: Where it was copied to; None when Redis's file cannot be seen from here, or what is seen is another.
        bytes: Of the copy.
        sha256: Of the copy, hex.
    """

    server_file: str
    copy: str | None
    bytes: int
    sha256: str


class Written(NamedTuple):
    """What Redis says of the snapshot it has just written.

    Attributes:
        file: On its machine.
        ended_s: When it was done, s since 1970 by its clock.
        took_s: How long it wrote.
    """

    file: Path
    ended_s: float
    took_s: float


class Looked(NamedTuple):
    """What a snapshot holds.

    Attributes:
        file: Looked into.
        bytes: Of the file.
        sha256: Of the file, hex.
        partitions: How each would stand, were it restored now.
        wrong: By partition, what stands against restoring it; None for no partition.
    """

    file: str
    bytes: int
    sha256: str
    partitions: tuple[Stands, ...]
    wrong: tuple[tuple[int | None, str], ...]


def save(settings: Settings, directory: Path) -> Saved:
    """Let Redis write a snapshot, and copy it.

    Args:
        settings: Of the service.
        directory: Takes the copy; made, for nobody else to read, when missing. A snapshot there already is left alone.

    Raises:
        OperationError: Redis cannot write it, or there is one already.
        StoreError: Redis does not answer.
    """
    target = directory / SNAPSHOT
    if target.exists():
        raise OperationError(f"{target} exists; give every backup a folder of its own")
    if settings.redis.cluster:
        raise OperationError(
            "a cluster has a snapshot a node: redis-cli --cluster call HOST:PORT BGSAVE, copy each primary's file, and "
            "look at the whole after restoring, twin ops status"
        )
    written = asyncio.run(_save(settings))
    if not _is_there(written):
        return Saved(str(written.file), None, 0, "")
    directory.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    _copy(written.file, target)
    return Saved(str(written.file), str(target), target.stat().st_size, _sha256(target))


def look(settings: Settings, directory: Path) -> Looked:
    """Load a snapshot into a Redis of its own and compare it with the log and the libraries here.

    Args:
        settings: Of the service; its Redis is not touched.
        directory: Holds the snapshot.

    Raises:
        OperationError: There is none, or Redis cannot load it.
        LogError: Kafka does not answer.
    """
    file = directory / SNAPSHOT
    if not file.is_file():
        raise OperationError(f"{file} is not there; twin ops backup {shlex.quote(str(directory))} makes it")
    port = free_ports(1)[0]
    scratch = directory / ".look"
    scratch.mkdir(FOLDER_MODE, exist_ok=True)
    try:
        configuration = scratch / "redis.conf"
        # Without the append-only file: with it Redis makes an empty one and does not read the snapshot.
        configuration.write_text(
            f"bind {LOOPBACK}\nport {port}\ndir {word(directory.resolve())}\ndbfilename {SNAPSHOT}\n"
            'appendonly no\nsave ""\n'
        )
        process = Process("Redis", (str(redis_server(scratch)), str(configuration)), scratch / LOG)
        process.start()
        try:
            url = f"redis://{LOOPBACK}:{port}/0"
            asyncio.run(_loaded(url, process))
            redis = settings.redis.model_copy(update={"url": url, "cluster": False})
            found = status(settings.model_copy(update={"redis": redis}))
        finally:
            process.stop(10.0)
    except ProcessError as error:
        raise OperationError(
            f"{file} cannot be loaded: {_complaint(scratch / LOG) or str(error).splitlines()[0]}; it is damaged, or "
            "of a newer Redis: fetch the copy again, or make another backup in another folder"
        ) from error
    finally:
        shutil.rmtree(scratch)
    wrong: list[tuple[int | None, str]] = [
        (one.partition, text)
        for one in found.partitions
        if one.instance is not None
        for text in misfits(one, found.expected)
    ]
    if all(one.instance is None for one in found.partitions):
        wrong.append((None, f"it holds nothing of group {settings.kafka.group}: is it another group's?"))
    return Looked(str(file), file.stat().st_size, _sha256(file), found.partitions, tuple(wrong))


async def _save(settings: Settings) -> Written:
    redis = settings.redis
    client: Any = connect(redis.url, **redis.client_arguments())
    try:
        before = (await client.info("persistence"))["rdb_saves"]
        try:
            await client.bgsave(schedule=True)
        except ResponseError as error:
            raise OperationError(f"Redis makes no snapshot now: {error}; try again") from error
        deadline = time.monotonic() + SAVED_WITHIN_S
        while True:
            about = await client.info("persistence")
            if about["rdb_saves"] > before and not about["rdb_bgsave_in_progress"]:
                break
            if about["rdb_last_bgsave_status"] != "ok" and not about["rdb_bgsave_in_progress"]:
                raise OperationError(
                    "Redis could not write its snapshot: see its log, and whether its disk and memory have room"
                )
            if time.monotonic() > deadline:
                raise OperationError(f"Redis has not written its snapshot after {SAVED_WITHIN_S:g} s")
            await asyncio.sleep(LOOK_EVERY_S)
        where = {**await client.config_get("dir"), **await client.config_get("dbfilename")}
        return Written(
            Path(str(where["dir"])) / str(where["dbfilename"]),
            float(about["rdb_last_save_time"]),
            float(about["rdb_last_bgsave_time_sec"]),
        )
    except (RedisError, OSError) as error:
        raise unavailable(error) from error
    finally:
        await client.aclose()


async def _loaded(url: str, process: Process) -> None:
    client: Any = connect(url)
    try:
        deadline = time.monotonic() + LOADED_WITHIN_S
        while time.monotonic() < deadline:
            process.require_running()
            try:
                if not (await client.info("persistence"))["loading"]:
                    return
            except (RedisError, OSError):
                pass  # not listening yet, or loading
            await asyncio.sleep(LOOK_EVERY_S)
        raise OperationError(f"the snapshot is not loaded after {LOADED_WITHIN_S:g} s")
    finally:
        await client.aclose()


def _is_there(written: Written) -> bool:
    """Whether the file is seen from here, and is the one just written: another machine may have one of that name."""
    if not written.file.is_file():
        return False
    before_end_s = written.ended_s - written.file.stat().st_mtime
    return -SLACK_S <= before_end_s <= written.took_s + SLACK_S


def _copy(source: Path, target: Path) -> None:
    """Copy aside, for nobody else to read, and rename: under its own name a copy is always whole."""
    aside = target.with_name(f".{target.name}.part")
    aside.unlink(missing_ok=True)
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        with os.fdopen(descriptor, "wb") as content, source.open("rb") as original:
            shutil.copyfileobj(original, content, BLOCK)
            content.flush()
            os.fsync(content.fileno())
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)


def _complaint(log: Path) -> str:
    """What Redis complained of first; empty when of nothing."""
    if not log.is_file():
        return ""
    found = COMPLAINT.search(log.read_text(encoding="utf-8", errors="replace"))
    return "" if found is None else found[1]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
