from django.urls import path

from servers import change_views, key_views, order_views, schedule_views, views

app_name = "servers"
urlpatterns = [
    path("servers/", views.server_list, name="list"),
    path("servers/create/", order_views.create, name="create"),
    path("servers/<uuid:server_id>/", views.detail, name="detail"),
    path("servers/<uuid:server_id>/row/", views.row, name="row"),
    path("servers/<uuid:server_id>/console/", views.console, name="console"),
    path("servers/<uuid:server_id>/screen/", views.screen, name="screen"),
    path("servers/<uuid:server_id>/reboot/", views.reboot, name="reboot"),
    path("servers/<uuid:server_id>/power-off/", views.power_off, name="power-off"),
    path("servers/<uuid:server_id>/power-on/", views.power_on, name="power-on"),
    path("servers/<uuid:server_id>/rename/", views.rename, name="rename"),
    path("servers/<uuid:server_id>/rebuild/", change_views.rebuild, name="rebuild"),
    path("servers/<uuid:server_id>/resize/", change_views.resize, name="resize"),
    path(
        "servers/<uuid:server_id>/create-image/",
        views.create_image,
        name="create-image",
    ),
    path(
        "servers/<uuid:server_id>/schedule/",
        schedule_views.schedule,
        name="schedule",
    ),
    path(
        "servers/<uuid:server_id>/schedule/stop/",
        schedule_views.stop,
        name="stop-schedule",
    ),
    path("servers/<uuid:server_id>/delete/", views.delete, name="delete"),
    path("keys/", key_views.keys, name="keys"),
    path("keys/<uuid:key_id>/delete/", key_views.key_delete, name="key-delete"),
]
