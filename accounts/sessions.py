"""Sessions in the database that know their user, so that a user can end them."""

from datetime import datetime, timedelta
from typing import Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.utils import timezone

from accounts.models import Session, User

ADDRESS, AGENT, SINCE = "_address", "_agent", "_since"

# A session's row is not written at each request, only when this much has passed.
SEEN_EVERY = timedelta(minutes=5)


class SessionStore(DatabaseSession):
    # The user who comes with the row, so that a request needs no query for them.
    user: User | None = None

    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def load(self) -> dict[str, Any]:
        rows = Session.objects.select_related("user")
        now = timezone.now()
        row = rows.filter(session_key=self.session_key, expire_date__gt=now).first()
        if row is None:
            self._session_key = None
            return {}
        if now - row.seen_at > SEEN_EVERY:
            Session.objects.filter(pk=row.pk).update(seen_at=now)
        self.user = row.user
        return self.decode(row.session_data)

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        session = cast(Session, super().create_model_instance(data))
        session.user_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
        session.address = data.get(ADDRESS)
        session.agent = data.get(AGENT, "")[:200]
        if SINCE in data:
            session.created_at = datetime.fromisoformat(data[SINCE])
        return session

    def flush(self) -> None:
        super().flush()
        self.user = None
