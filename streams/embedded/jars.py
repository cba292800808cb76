"""Kafka's jars: named with their SHA-256 in `kafka.lock.toml`, fetched by jgo, checked before every start.

They are kept where Maven keeps its own (`~/.m2/repository`, or `M2_REPO`); a mirror in the user's jgo settings is
tried after Maven Central. `python -m streams.embedded.jars` resolves the versions below anew and rewrites the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jgo
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

KAFKA_VERSION = "4.3.1"
ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
LOCK = Path(__file__).with_name("kafka.lock.toml")
DOWNLOADS_AT_ONCE = 8


class JarError(RuntimeError):
    """A jar could not be fetched, or its bytes are not those of the lock."""


class LockedJar(NamedTuple):
    """One row of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    def __str__(self) -> str:
        """Write the jar as Maven does."""
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(lock: Path = LOCK) -> list[LockedJar]:
    """Read the locked jars, in the order of the class path.

    Args:
        lock: A file that jgo wrote.

    Raises:
        JarError: A row has no SHA-256.
    """
    rows = tomllib.loads(lock.read_text())["dependencies"]
    jars = [
        LockedJar(row["groupId"], row["artifactId"], row["version"], row.get("sha256", "")) for row in rows
    ]
    for jar in jars:
        if len(jar.sha256) != 64:
            raise JarError(f"{lock}: {jar} has no sha256. Rewrite the lock: python -m streams.embedded.jars")
    return jars


def kafka_class_path(lock: Path = LOCK) -> list[Path]:
    """Fetch what is missing, check every jar against the lock, and give their paths.

    Args:
        lock: A file that jgo wrote.

    Returns:
        One path a jar, in the order of the lock.

    Raises:
        JarError: A jar cannot be fetched, or is not the one of the lock even after fetching it again.
    """
    settings = GlobalSettings.load()
    context = MavenContext(
        repo_cache=settings.repo_cache, remote_repos={"central": MAVEN_CENTRAL_URL, **settings.repositories}
    )
    cache = Path(settings.repo_cache)
    cache.mkdir(parents=True, exist_ok=True)
    # Two first starts at once would write the same file.
    with (cache / ".twin-updater.lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            return list(pool.map(lambda jar: _fetch(context, jar), read_lock(lock)))


def _fetch(context: MavenContext, jar: LockedJar) -> Path:
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    found = ""
    for _ in range(2):  # the second time for a download that was cut short
        try:
            path = Path(artifact.resolve())
        except Exception as error:
            raise JarError(
                f"cannot fetch {jar} from {', '.join(context.remote_repos.values())}: {error}. "
                "The first start of the embedded Kafka needs the network (44 MB, kept afterwards)."
            ) from error
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found == jar.sha256:
            return path
        path.unlink()
    raise JarError(f"{jar} has SHA-256 {found}, but {LOCK.name} says {jar.sha256}: refused and deleted")


def write_lock(lock: Path = LOCK) -> None:
    """Resolve `ENDPOINT` with all it depends on, and write the lock.

    Args:
        lock: The file to replace.
    """
    with tempfile.TemporaryDirectory() as directory:
        environment = jgo.build(ENDPOINT, cache_dir=Path(directory))
        shutil.copyfile(environment.lock_path, lock)


if __name__ == "__main__":
    write_lock()
