"""Jobs for the worker: in which queue, whose turn it is, and what is tried again.

The deeds of accounts wait in two queues, with turns and lanes. A job gets the turn
after the one that is being served, or after the last one of its account if that waits
already. So accounts are served in rotation, however much one of them orders. Each has
half as many lanes as the queue has slots, and one job at a time is done in a lane: the
slow jobs of one account leave the other slots to the others.
"""

from collections import Counter
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Min, Q
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.contrib.django import app as jobs
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job

from controlpanel.errors import is_database_away
from controlpanel.leases import Leased

SERVERS = "servers"
IMAGES = "images"
MAIL = "mail"
# What the panel does by itself: what takes seconds, and what may take hours, of which
# each kind has a lock of its own.
HOUSEKEEPING = "housekeeping"
LONG = "long"
# The look at all servers every few seconds, which nothing may hold up.
WATCH = "watch"

# How many jobs of a queue are done at once.
SLOTS: dict[str, int] = {
    SERVERS: settings.JOBS["server_slots"],
    IMAGES: settings.JOBS["image_slots"],
    MAIL: 1,
    HOUSEKEEPING: 2,
    LONG: 2,
    WATCH: 1,
}

# Seconds until the next try, and how many there are, when the database is away or
# a row stays locked, and when another worker still does the same job.
_DATABASE_BACK = 2
_MOST_RETURNS = 60
_LEASE_FREE = 5


def defer_for(account_number: str, task: str, queue: str, **args: str) -> None:
    """Have it done when it is the account's turn; once, however often it is asked for.

    `args` say by its id what the job is about. Jobs about the same thing are done one
    after the other, in the order in which they were deferred.
    """
    turn, lane = _place(account_number, queue, args)
    deferrer = jobs.configure_task(
        task,
        queue=queue,
        priority=-turn,
        lock=lane,
        queueing_lock="-".join([task, *args.values()]),
    )
    try:
        with transaction.atomic():
            deferrer.defer(**args)
    except AlreadyEnqueued:
        pass  # the one that waits reads the row when its turn comes


def has_job(task: str = "", **about: UUID) -> bool:
    """Whether something, or that very task, waits or is being done; `about` says by its
    id with what.
    """
    unfinished = ProcrastinateJob.objects.filter(status__in=["todo", "doing"])
    if task:
        unfinished = unfinished.filter(task_name=task)
    args = {name: str(value) for name, value in about.items()}
    return unfinished.filter(args__contains=args).exists()


def _place(account_number: str, queue: str, args: dict[str, str]) -> tuple[int, str]:
    lanes = [f"{queue}-{account_number}-{n}" for n in range(max(1, SLOTS[queue] // 2))]
    pending = ProcrastinateJob.objects.filter(
        queue_name=queue, status__in=["todo", "doing"]
    )
    served = pending.aggregate(
        last=Min("priority", filter=Q(status="doing")), next=Max("priority")
    )
    at = next((-turn for turn in served.values() if turn is not None), -1)
    own = list(pending.filter(lock__in=lanes).values_list("lock", "priority", "args"))
    turn = 1 + max([at, *(-priority for _, priority, _ in own)])
    same = [lane for lane, _, about in own if about == args]
    load = Counter(lane for lane, _, _ in own)
    lane = same[0] if same else min(lanes, key=lambda lane: load[lane])
    return turn, lane


class Again(BaseRetryStrategy):
    """Try again, after so many seconds each time, what has failed by such an error.

    Whatever it is, a job is tried again soon if only the database was away.
    """

    def __init__(self, *errors: type[Exception], waits: list[int]) -> None:
        self.errors = errors
        self.waits = waits

    def get_retry_decision(
        self, *, exception: BaseException, job: Job
    ) -> RetryDecision | None:
        wait = None
        if isinstance(exception, Leased):
            wait = _LEASE_FREE
        elif is_database_away(exception):
            wait = _DATABASE_BACK if job.attempts < _MOST_RETURNS else None
        elif isinstance(exception, self.errors):
            wait = dict(enumerate(self.waits)).get(job.attempts)
        return None if wait is None else RetryDecision(retry_in={"seconds": wait})


ONLY_IF_INTERRUPTED = Again(waits=[])
