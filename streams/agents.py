"""The Faust application: one agent, which hands each fetched batch to its partition's processor."""

from __future__ import annotations

from streams.adapters.faust_transport import (  # first, as it sets how Faust is loaded
    BatchSchema,
    BatchTransport,
    ConsumerOptions,
)
from streams.crew import Crew
from streams.partition import Fetched

# isort: split
import faust
from faust.tables.manager import TableManager


class NoTables(TableManager):
    """Faust starts a second later, waiting for tables to be declared: here are none, and a takeover should be fast."""

    async def on_start(self) -> None:
        """Start without the wait."""
        await self._update_channels()
        await self.recovery.start()


class WorkerApp(faust.App):
    """A Faust application without tables, so without a data directory."""

    async def on_first_start(self) -> None:
        """Make no directory."""


def build_app(options: ConsumerOptions, partitions: int, crew: Crew) -> WorkerApp:
    """Make the application and register its agent.

    Args:
        options: How the input is read.
        partitions: Of the input topic.
        crew: Who takes the batches.
    """
    app = WorkerApp(
        options.group,
        broker=f"kafka://{options.arguments['bootstrap_servers'][0]}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=partitions,
        # Safe with our commits, and a rebalance does not wait for a batch in work.
        stream_wait_empty=False,
        processing_guarantee="at_least_once",
        consumer_group_instance_id=options.instance,
        broker_session_timeout=options.session_timeout_s,
        broker_heartbeat_interval=options.heartbeat_interval_s,
        broker_commit_interval=1.0,
        worker_redirect_stdouts=False,
        TableManager=NoTables,
    )
    app.transport = BatchTransport(app, options, crew)
    register_agents(app, options.topic, crew)
    return app


def register_agents(app: faust.App, topic: str, crew: Crew) -> None:
    """Register the one agent; the work is done by the processors, so that no partition waits for another."""

    @app.agent(app.topic(topic, schema=BatchSchema(), acks=False), name="fold", concurrency=1)
    async def fold(batches: faust.StreamT[Fetched]) -> None:
        async for batch in batches:
            crew.deliver(batch)
