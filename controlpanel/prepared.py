"""Querysets that are turned into SQL once, for the pages that are asked for most.

Django writes the SQL of a queryset anew for each request, which takes ten times as
long as PostgreSQL needs to answer. A Prepared keeps it, with named gaps in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import connection
from django.db.models import Expression, Field, QuerySet


class Gap(Expression):
    """A place in a queryset for a value that is given at each run, by this name."""

    def __init__(self, name: str, output_field: Field[Any, Any] | None = None) -> None:
        super().__init__(output_field=output_field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[_Named]]:
        return "%s", (_Named(self.name),)


class _Named(str):
    """The name of a gap among the parameters, told from a parameter that is text."""


class Prepared:
    def __init__(self, queryset: QuerySet[Any, Any]) -> None:
        self._sql, self._parameters = queryset.query.sql_with_params()

    def run(self, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """All rows, as tuples."""
        parameters = [
            values[each] if isinstance(each, _Named) else each
            for each in self._parameters
        ]
        with connection.cursor() as cursor:
            cursor.execute(self._sql, parameters)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows

    def first(self, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """For a queryset that finds one row or none."""
        rows = self.run(values)
        return rows[0] if rows else None
