from django.urls import path

from sharing import consumer, producer

app_name = "sharing"
urlpatterns = [
    # The producer's side.
    path("images/<uuid:image_id>/share/", producer.share, name="share"),
    path(
        "images/<uuid:image_id>/share/chosen/",
        producer.share_chosen,
        name="share-chosen",
    ),
    path("images/<uuid:image_id>/share/name/", producer.lookup, name="lookup"),
    path("images/<uuid:image_id>/shares/", producer.shares, name="shares"),
    path("images/<uuid:image_id>/events/", producer.events, name="events"),
    path("shares/<uuid:share_id>/revoke/", producer.revoke, name="revoke"),
    path("shares/<uuid:share_id>/again/", producer.share_again, name="again"),
    # The consumer's side.
    path("offers/", consumer.offers, name="offers"),
    path("offers/list/", consumer.offers_list, name="offers-list"),
    path("offers/notifications/", consumer.notifications, name="notifications"),
    path("offers/withdrawn/", consumer.withdrawals, name="withdrawals"),
    path("offers/withdrawn/seen/", consumer.withdrawals_seen, name="withdrawals-seen"),
    path("shares/<uuid:share_id>/", consumer.offer, name="offer"),
    path("shares/<uuid:share_id>/accept/", consumer.accept, name="accept"),
    path("shares/<uuid:share_id>/reject/", consumer.reject, name="reject"),
    path("images/<uuid:image_id>/remove/", consumer.remove, name="remove"),
    path("images/<uuid:image_id>/report/", consumer.report, name="report"),
]
