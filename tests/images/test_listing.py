"""The list over own and accepted images equals what a naive list would be."""

import itertools
import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase as HypothesisTestCase

from accounts.regions import RegionChoice
from images.listing import (
    PAGE_SIZE,
    Shape,
    _counts,
    _one_row,
    _rows_of,
    counts_of,
    page_of,
    row_of,
)
from images.models import Image
from images.wanted import LARGEST_SIZE, Cursor, Sort, Wanted
from sharing.models import ImageShare
from tests.cast import CastTestCase
from tests.factories import (
    AccountFactory,
    BlobFactory,
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
SORTS = [Sort(by, down) for by in ("date", "name", "size") for down in (True, False)]
IAD, LON = RegionChoice("IAD", "Northern Virginia"), RegionChoice("LON", "London")
REGIONS = [None, IAD, LON]
EITHER = (True, False)
ASKED = st.sampled_from(["q", "sort", "after", "before"])


def all_pages(account, wanted):
    """Every page from the first to the last, and back again, which has to agree."""
    there = [page_of(account, wanted)]
    while there[-1].after:
        wanted = replace(wanted, cursor=there[-1].after)
        there.append(page_of(account, wanted))
    back = [there[-1]]
    while back[-1].before:
        wanted = replace(wanted, cursor=back[-1].before)
        back.append(page_of(account, wanted))
    assert [page.rows for page in reversed(back)] == [page.rows for page in there]
    assert there[0].before is None
    return there


class NaiveTests(CastTestCase):
    """Many ties, and names of all sorts, so that the ID has to decide."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        chance = random.Random(3)  # noqa: S311
        names = ["web", "Web", "100% web_1", "back\\slash", "ώμέγα", "🚀", "%", "z"]
        blobs = BlobFactory.create_batch(3)
        regions = [RegionFactory.create(code=code) for code in ("IAD", "LON")]
        cls.images = []
        for number in range(90):
            is_own = number % 3 != 0
            blob = chance.choice(blobs)
            image = ImageFactory.create(
                owner=cls.acme if is_own else cls.beta,
                name=chance.choice(names),
                region=chance.choice(regions),
                size=chance.choice([0, 10, LARGEST_SIZE]),
                blob=blob,
                created_at=START + timedelta(microseconds=chance.randrange(5)),
            )
            if not is_own:
                share = ImageShareFactory.create(image=image, consumer=cls.acme)
                answer = chance.choice(["accept", "accept", "reject", None])
                if answer:
                    getattr(share, answer)(by=cls.alice)
                if answer != "accept":
                    continue
            cls.images.append(image)
        cls.images.append(cls.image)

    def expected(self, wanted):
        keys = {
            "date": lambda image: (image.created_at, image.pk),
            "name": lambda image: (image.name.encode(), image.pk),
            "size": lambda image: (image.size, image.pk),
        }
        found = [
            image
            for image in self.images
            if wanted.region is None or image.region_id == wanted.region.code
            if wanted.text.lower() in image.name.lower()
        ]
        return sorted(found, key=keys[wanted.sort.by], reverse=wanted.sort.descending)

    def test_all_orders_regions_searches_and_pages(self):
        texts = ["", "web", "WEB", "%", "_", "\\", "b_", "ΜΈΓ", "🚀", "nothing", "'"]
        for sort, region, text in itertools.product(SORTS, REGIONS, texts):
            wanted = Wanted(region, text, sort)
            with self.subTest(wanted=wanted):
                pages = all_pages(self.acme, wanted)
                listed = [row.id for page in pages for row in page.rows]
                assert listed == [image.pk for image in self.expected(wanted)]
                assert all(len(page.rows) == PAGE_SIZE for page in pages[:-1])

    def test_each_row_is_what_its_image_is(self):
        for page in all_pages(self.acme, Wanted()):
            for row in page.rows:
                image = Image.objects.select_related("owner").get(pk=row.id)
                assert (row.name, row.region, row.os, row.size, row.created_at) == (
                    image.name,
                    image.region_id,
                    image.os,
                    image.size,
                    image.created_at,
                )
                producer = None if image.owner == self.acme else image.owner.name
                assert row.producer_name == producer
                assert row_of(self.acme, row.id) == row

    def test_a_row_is_only_found_on_the_list_it_is_on(self):
        for image in Image.objects.all():
            is_listed = image in self.images
            assert (row_of(self.acme, image.pk) is not None) is is_listed

    def test_counts(self):
        counted = counts_of(self.acme)

        for region in REGIONS[1:]:
            assert counted[region.code] == len(self.expected(Wanted(region)))

    def test_a_page_goes_on_where_it_was_after_its_last_row_is_deleted(self):
        first = page_of(self.acme, Wanted())
        rest = self.expected(Wanted())[PAGE_SIZE:]
        ImageShare.objects.filter(image=first.rows[-1].id).delete()
        Image.objects.filter(pk=first.rows[-1].id).delete()

        following = page_of(self.acme, Wanted(cursor=first.after))
        assert [row.id for row in following.rows] == [
            image.pk for image in rest[:PAGE_SIZE]
        ]


class PlanTests(CastTestCase):
    """No page of anybody reads a whole table, however it is asked for."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        RegionFactory.create(code="LON")
        blob = BlobFactory.create()
        owners = [cls.acme, cls.beta, *AccountFactory.create_batch(10)]
        made = [
            Image(
                owner=owners[number % 12],
                name=f"image {number % 977}",
                region_id="LON" if number % 5 else "IAD",
                status="active",
                origin="upload",
                blob=blob,
                size=number * 7919 % 10007,
                created_at=START + timedelta(seconds=number * 7919 % 100003),
            )
            for number in range(9000)
        ]
        Image.objects.bulk_create(made)
        # Each account has accepted all that the next one owns.
        consumers = dict(zip([*owners[1:], owners[0]], owners, strict=True))
        ImageShare.objects.bulk_create(
            ImageShare(
                image=image,
                consumer=consumers[image.owner],
                consumer_number=consumers[image.owner].pk,
                status="accepted",
                region_id=image.region_id,
                image_name=image.name,
                image_size=image.size,
                image_created_at=image.created_at,
            )
            for image in made
        )
        with connection.cursor() as cursor:
            for index in ("images_search", "sharing_search"):
                cursor.execute("SELECT gin_clean_pending_list(%s)", [index])
            cursor.execute("ANALYZE images_image, sharing_imageshare")

    def plan(self, statement, **values):
        """Each node of the plan, and the tables that are read from end to end."""
        values = {"account": self.acme.pk} | values
        parameters = [
            values.get(str(each), each) if type(each) is not str else each
            for each in statement._parameters
        ]
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement._sql}", parameters)
            told = cursor.fetchone()[0]
        plan = told if isinstance(told, list) else json.loads(told)
        return list(self.nodes(plan[0]["Plan"]))

    def nodes(self, plan):
        yield plan
        for child in plan.get("Plans", []):
            yield from self.nodes(child)

    def whole_tables(self, nodes):
        big = {"images_image", "sharing_imageshare"}
        return [
            node
            for node in nodes
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in big
        ]

    def test_every_shape_of_page_comes_from_indexes(self):
        keys = {"date": START, "name": "image 5", "size": 5000}
        for by, *rest in itertools.product(keys, *[EITHER] * 4):
            shape = Shape(by, *rest)
            with self.subTest(shape=shape):
                nodes = self.plan(
                    _rows_of(shape),
                    region="LON",
                    text="%age 97%",
                    key=keys[by],
                    id=uuid4(),
                )
                assert not self.whole_tables(nodes)

    def test_a_page_without_a_search_is_read_in_order_and_never_sorted(self):
        keys = {"date": START, "name": "image 5", "size": 5000}
        for by, down, in_region, beyond in itertools.product(keys, *[EITHER] * 3):
            shape = Shape(by, down, in_region, with_text=False, beyond=beyond)
            with self.subTest(shape=shape):
                nodes = self.plan(
                    _rows_of(shape), region="LON", key=keys[by], id=uuid4()
                )
                assert "Sort" not in {node["Node Type"] for node in nodes}

    def test_a_search_uses_the_trigrams(self):
        shape = Shape("date", True, False, with_text=True, beyond=False)
        nodes = self.plan(_rows_of(shape), text="%age 97%")

        used = {node.get("Index Name") for node in nodes}
        assert {"images_search", "sharing_search"} <= used

    def test_counts_and_single_rows_come_from_indexes(self):
        assert not self.whole_tables(self.plan(_counts()))
        assert not self.whole_tables(self.plan(_one_row(), id=uuid4()))


class CursorTests(SimpleTestCase):
    @given(
        st.one_of(
            st.tuples(
                st.just("date"),
                st.datetimes(
                    min_value=datetime(2, 1, 2),
                    max_value=datetime(9998, 1, 1),
                    timezones=st.just(UTC),
                ),
            ),
            st.tuples(
                st.just("name"),
                st.text(
                    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
                ),
            ),
            st.tuples(st.just("size"), st.integers(0, LARGEST_SIZE)),
        ),
        st.uuids(),
        st.booleans(),
    )
    def test_a_cursor_that_was_given_out_is_read_again(self, pair, image_id, back):
        by, key = pair
        cursor = Cursor(key, image_id, back)

        assert Cursor.read(str(cursor), Sort(by, True), back=back) == cursor

    @given(st.sampled_from(SORTS), st.text())
    def test_any_other_text_is_refused(self, sort, text):
        with pytest.raises(ValueError):  # noqa: PT011
            Cursor.read(text, sort, back=False)

    def test_what_almost_looks_right_is_refused(self):
        one = UUID(int=1)
        for by, key in [
            ("date", "2026-01-01T00:00:00"),
            ("date", 5),
            ("date", "0001-01-01T00:00:00+23:59"),
            ("name", "a\0b"),
            ("name", "\ud800"),
            ("name", 5),
            ("size", -1),
            ("size", 2**63),
            ("size", True),
            ("size", "5"),
            ("size", None),
        ]:
            with self.subTest(by=by, key=key), pytest.raises(ValueError):  # noqa: PT011
                Cursor.read(str(Cursor(key, one)), Sort(by, True), back=False)


class WantedTests(HypothesisTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.dictionaries(ASKED, st.text()))
    def test_no_query_of_a_url_breaks_the_list(self, query):
        account = ImageFactory.create().owner
        wanted, _ = Wanted.read(query, None)

        page_of(account, wanted)
