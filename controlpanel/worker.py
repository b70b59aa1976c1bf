"""The background worker: one process with slots of its own for each queue.

A job is given back and done again when nobody does it any more: at once when a worker
starts after one that was killed, and every few seconds, should the database have lost
what a worker told it. See `leases` for how that is known.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connections
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django import connector_params
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.worker import Worker

from controlpanel.errors import is_database_away
from controlpanel.jobs import IMAGES, SERVERS, SLOTS
from controlpanel.leases import Leased, is_leased, lease

log = logging.getLogger("panel.worker")

# What a job may ask of the database: to wait for a lock, to work on one statement, and
# to keep a transaction open while it does something else. The last is longer than the
# start of a server, whose image is locked meanwhile; a worker that is stopped in the
# midst of it lets go of the image then.
_LIMITS = {
    "lock_timeout": "30s",
    "statement_timeout": "5min",
    "idle_in_transaction_session_timeout": "5min",
}
# Seconds between looks for jobs that wait for a time, and for those that nobody does.
_LOOK_EVERY = 1.0
_TAKE_OVER_EVERY = 5.0
# Seconds between tries to reach a database that is away.
_TRY_EVERY = 0.5
# By how many seconds the clock may be set before the worker is started anew.
_CLOCK_SET = 30.0
_WAITED_FOR = {SERVERS, IMAGES}  # by somebody before a page


def prepare(app: App) -> None:
    """Hold a lease for every job, whichever command runs the worker."""
    app.worker_defaults["worker_middleware"] = [_with_lease]


async def _with_lease(
    call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Worker
) -> Any:
    job_id = context.job.id or 0
    with lease(job_id):
        # A worker that was stopped just before this line may have lost the job.
        if not await context.app.job_manager.list_jobs_async(
            id=job_id, status="doing", worker_id=worker.worker_id
        ):
            raise Leased(f"Job {job_id} has been given to another worker.")
        return await call_next()


def run(*, grace: float) -> None:
    """Work until SIGTERM or SIGINT; jobs then have `grace` seconds to end."""
    set_limits()
    asyncio.run(_run(grace))


def set_limits() -> None:
    """Bound what a job waits for the database. Comes before the first connection."""
    options = connections["default"].settings_dict["OPTIONS"]
    limits = " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())
    # What the operator has set in DATABASE_URL comes last, and so counts.
    options["options"] = f"{limits} {options.get('options', '')}".strip()
    # Each slot is a thread, and each thread has a connection while it works.
    options["pool"]["max_size"] = max(options["pool"]["max_size"], sum(SLOTS.values()))


async def _run(grace: float) -> None:
    loop = asyncio.get_running_loop()
    # Jobs are plain functions and run in its threads; by default it has too few.
    loop.set_default_executor(ThreadPoolExecutor(sum(SLOTS.values()), "job"))
    connector = PatientConnector(kwargs=connector_params())
    with jobs.replace_connector(connector) as app:
        async with app.open_async():
            await take_over(app)
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(_serve(app, queue, slots, grace), name=queue)
                for queue, slots in SLOTS.items()
            ]
            tasks.append(asyncio.create_task(_keep_taking_over(app), name="leases"))
            tasks.append(asyncio.create_task(watch_clock(), name="clock"))
            asked = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, asked.set)
            tasks.append(asyncio.create_task(asked.wait(), name="signal"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # A thread cannot be ended. Whoever starts next takes up what it did.
            loop.call_later(grace + 2, os._exit, 1)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    if not asked.is_set():
        raise next(error for error in ended if isinstance(error, Exception))


async def _serve(app: App, queue: str, slots: int, grace: float) -> None:
    await app.run_worker_async(
        name=queue,
        queues=[queue],
        concurrency=slots,
        delete_jobs="successful",
        fetch_job_polling_interval=_LOOK_EVERY,
        listen_notify=queue in _WAITED_FOR,
        shutdown_graceful_timeout=grace,
        install_signal_handlers=False,
    )
    raise RuntimeError(f"The worker of the queue “{queue}” has ended by itself.")


async def _keep_taking_over(app: App) -> None:
    suspects: Iterable[int] = ()
    while True:
        await asyncio.sleep(_TAKE_OVER_EVERY)
        suspects = await take_over(app, among=suspects)


async def watch_clock() -> None:
    """End the worker when the clock is set: it remembers the times for which periodic
    jobs were deferred, and would defer none until one set back has caught up."""
    before = time.time() - time.monotonic()
    while abs(time.time() - time.monotonic() - before) < _CLOCK_SET:
        await asyncio.sleep(1)
    raise RuntimeError("The clock was set, so the worker has to be started anew.")


async def take_over(app: App, *, among: Iterable[int] | None = None) -> set[int]:
    """Give back jobs that nobody does. Returns all that look so, of which a worker that
    runs takes only those for sure that looked so before: `among`.

    A job has no lease for a moment after it was fetched, and before its end is written.
    """
    doing = await app.job_manager.list_jobs_async(status="doing")
    abandoned = {job.id: job for job in doing if job.id and not is_leased(job.id)}
    for job_id, job in abandoned.items():
        if among is None or job_id in among:
            log.warning("job %s is taken over: %s", job_id, job.call_string)
            with contextlib.suppress(ConnectorException):  # it has just ended
                await _give_back(app, job)
    return set(abandoned)


async def _give_back(app: App, job: Job) -> None:
    try:
        await app.job_manager.retry_job(job)
    except UniqueViolation:
        # Meanwhile it was asked for again. That one does all of it when its turn comes,
        # which it cannot while this one seems to be under way.
        await app.job_manager.finish_job(job, Status.ABORTED, delete_job=True)


class PatientConnector(PsycopgConnector):
    """Waits for a database that is being restarted, where the other would give up."""

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        await _patiently(super().execute_query_async, query, **arguments)

    async def execute_query_one_async(
        self, query: Any, **arguments: Any
    ) -> dict[str, Any]:
        found: dict[str, Any] = await _patiently(
            super().execute_query_one_async, query, **arguments
        )
        return found

    async def execute_query_all_async(
        self, query: Any, **arguments: Any
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await _patiently(
            super().execute_query_all_async, query, **arguments
        )
        return found

    async def listen_notify(self, on_notification: Any, channels: Any) -> None:
        await _patiently(super().listen_notify, on_notification, list(channels))


async def _patiently(
    ask: Callable[..., Awaitable[Any]], *given: Any, **named: Any
) -> Any:
    told = False
    while True:
        try:
            return await ask(*given, **named)
        except ConnectorException as error:
            if not is_database_away(error):
                raise
            if not told:
                log.warning("the database is away: %s", error.__cause__)
            told = True
            await asyncio.sleep(_TRY_EVERY)
