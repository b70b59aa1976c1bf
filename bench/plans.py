"""Sign the bench's users in, count each page's queries and read their plans.

Runs as a program of its own, once a database: prints one JSON object.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlpanel.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import (  # noqa: E402
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
)
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402

from accounts.models import Account, Token, User  # noqa: E402
from accounts.permissions import Role  # noqa: E402
from accounts.sessions import SessionStore  # noqa: E402
from bench.data import CONSUMER, PRODUCER  # noqa: E402
from bench.scenarios import SHARE, Cast, Step, scenarios  # noqa: E402
from images.models import Image  # noqa: E402
from sharing.models import ImageShare  # noqa: E402
from sharing.offers import pending_offers  # noqa: E402

SMALL_TABLE = 2_000  # rows: below, a sequential scan is the right plan
COUNT_LIMITED = re.compile(r"count\(\*\).*limit", re.IGNORECASE | re.DOTALL)


def sign_in(username: str, account_number: str) -> str:
    account = Account.objects.get(pk=account_number)
    user, created = User.objects.get_or_create(
        username=username, defaults={"home_account": account}
    )
    if created:
        account.grant(Role.USER_ADMIN, to=user)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)


def token_of(username: str, account_number: str) -> str:
    user = User.objects.get(username=username)
    account = Account.objects.get(pk=account_number)
    return Token.objects.issue(user, account, methods=["password"]).plain


def recorded(act: Callable[[], Any]) -> list[tuple[str, Any]]:
    statements: list[tuple[str, Any]] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        act()
    return statements


def faults_of(statements: list[tuple[str, Any]]) -> Iterator[str]:
    """What makes a page slower as the tables grow."""
    for statement, params in statements:
        if (
            not statement.lstrip("( ")
            .upper()
            .startswith(("SELECT", "UPDATE", "DELETE"))
        ):
            continue
        text = " ".join(statement.split())
        if re.search(r"\bOFFSET\b", text, re.IGNORECASE):
            yield f"OFFSET: {text[:200]}"
        if "count(*)" in text.lower() and not COUNT_LIMITED.search(text):
            yield f"a count without a limit: {text[:200]}"
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", params)
            plan = cursor.fetchone()[0]
        plan = json.loads(plan) if isinstance(plan, str) else plan
        for node in _nodes(plan[0]["Plan"]):
            if node["Node Type"].endswith("Seq Scan") and _rows(node) > SMALL_TABLE:
                yield f"sequential scan of {node['Relation Name']}: {text[:200]}"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _rows(node: dict[str, Any]) -> float:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT reltuples FROM pg_class WHERE relname = %s", [node["Relation Name"]]
        )
        return float(cursor.fetchone()[0])


def take(client: Client, step: Step) -> None:
    client.cookies[settings.SESSION_COOKIE_NAME] = step.session
    if step.method:
        answer = client.generic(
            step.method,
            step.path,
            step.body,
            content_type="application/json",
            headers=step.headers,
        )
    elif step.form is None:
        answer = client.get(step.path, headers=step.headers)
    else:
        answer = client.post(step.path, step.form, headers=step.headers)
    if answer.status_code not in step.expected:
        sys.exit(f"{step.path} answered {answer.status_code}")


def main() -> None:
    settings.ROOT_URLCONF = "bench.urls"
    settings.TEMPLATES[0] |= {
        "DIRS": [
            settings.BASE_DIR / "templates",
            settings.BASE_DIR / "bench" / "templates",
        ]
    }
    settings.ALLOWED_HOSTS = ["*"]
    image = _image_not_shared_with_the_consumer()
    cast = Cast(
        producer=PRODUCER,
        consumer=CONSUMER,
        producer_session=sign_in("bench-alice", PRODUCER),
        consumer_session=sign_in("bench-bob", CONSUMER),
        image=str(image.pk),
        region=image.region_id,
        producer_token=token_of("bench-alice", PRODUCER),
        consumer_token=token_of("bench-bob", CONSUMER),
        seen=_what_the_header_shows(),
    )
    queries, faults = {}, []
    for name, steps in scenarios(cast).items():
        client = Client()
        statements: list[tuple[str, Any]] = []
        for step in steps:
            share = _share_of(cast) if SHARE in step.path else ""
            statements += recorded(partial(take, client, step.about(share)))
        queries[name] = len(statements)
        faults += [f"{name}: {fault}" for fault in faults_of(statements)]
    json.dump(
        {"cast": cast._asdict(), "queries": queries, "faults": faults}, sys.stdout
    )


def _image_not_shared_with_the_consumer() -> Image:
    images = Image.objects.owned_by(Account.objects.get(pk=PRODUCER))
    shared = images.filter(shares__consumer_number=CONSUMER)
    return images.exclude(pk__in=shared.values("pk"))[0]


def _share_of(cast: Cast) -> str:
    shares = ImageShare.objects.filter(consumer_number=cast.consumer)
    return str(shares.get(image_id=cast.image).pk)


def _what_the_header_shows() -> str:
    offers = pending_offers(PRODUCER, User.objects.get(username="bench-alice"))
    return offers.version if offers else ""


if __name__ == "__main__":
    main()
