"""Sessions in the database that know their user, so that a user can end them."""

from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.utils import timezone

from accounts.models import Session, User
from controlpanel.errors import is_database_away
from controlpanel.prepared import Gap, Prepared

ADDRESS, AGENT, SINCE = "_address", "_agent", "_since"

# A session's row is not written at each request, only when this much has passed.
SEEN_EVERY = timedelta(minutes=5)


USER_FIELDS = [field.attname for field in User._meta.concrete_fields]


@cache
def _session_with_user() -> Prepared:
    """Every request begins with this, so its SQL is kept."""
    running = Session.objects.filter(session_key=Gap("key"), expire_date__gt=Gap("now"))
    names = [f"user__{field.name}" for field in User._meta.concrete_fields]
    return Prepared(running.values_list("session_data", "seen_at", *names))


class SessionStore(DatabaseSession):
    # The user who comes with the row, so that a request needs no query for them.
    user: User | None = None

    def _validate_session_key(self, key: str) -> bool:
        # A cookie can hold characters that PostgreSQL would not take in a text.
        return len(key or "") >= 8 and key.isascii() and key.isalnum()

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def load(self) -> dict[str, Any]:
        now = timezone.now()
        row = _session_with_user().first({"key": self.session_key, "now": now})
        if row is None:
            self._session_key = None
            return {}
        data, seen_at, user_id, *fields = row
        if now - seen_at > SEEN_EVERY:
            Session.objects.filter(pk=self.session_key).update(seen_at=now)
        if user_id is not None:
            self.user = User.from_db("default", USER_FIELDS, [user_id, *fields])
        return self.decode(data)

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        session = cast(Session, super().create_model_instance(data))
        session.user_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
        session.address = data.get(ADDRESS)
        session.agent = data.get(AGENT, "")[:200]
        if SINCE in data:
            session.created_at = datetime.fromisoformat(data[SINCE])
        return session

    def save(self, must_create: bool = False) -> None:
        try:
            super().save(must_create)
        except UpdateError as error:
            # Django takes a database that is away for a session that was ended: the
            # answer would be 400, as if nothing had been done, though it may have been.
            cause = error.__context__
            if cause is not None and is_database_away(cause):
                raise cause from None
            raise

    def flush(self) -> None:
        super().flush()
        self.user = None
