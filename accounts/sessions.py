"""Sessions in the database that know their user, so that a user can end them."""

from typing import Any, cast

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession

from accounts.models import Session

ADDRESS, AGENT = "_address", "_agent"


class SessionStore(DatabaseSession):
    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        session = cast(Session, super().create_model_instance(data))
        session.user_id = int(data[SESSION_KEY]) if SESSION_KEY in data else None
        session.address = data.get(ADDRESS)
        session.agent = data.get(AGENT, "")[:200]
        return session
