from django.contrib.auth.views import LogoutView
from django.urls import include, path

from accounts import api_access, invitations, security, users, views

# Pages of a user come first, then those inside an account.
pages = [
    path("switch/", views.switch, name="switch"),
    path("security/", security.overview, name="security"),
    path(
        "security/password/", security.PasswordChange.as_view(), name="change-password"
    ),
    path("security/sessions/end/", security.end_session, name="end-session"),
    path("security/sessions/end-others/", security.end_others, name="end-others"),
    path("invitations/<str:token>/", invitations.invitation, name="invitation"),
    path("invitations/<str:token>/accept/", invitations.accept, name="accept"),
    path("invitations/<str:token>/join/", invitations.join, name="join"),
    path("<account:account_number>/", views.enter, name="enter"),
    path("<account:account_number>/account/", views.account, name="account"),
    path("<account:account_number>/account/edit/", views.edit, name="edit"),
    path("<account:account_number>/limits/", views.limits, name="limits"),
    path(
        "<account:account_number>/api-access/", api_access.api_access, name="api-access"
    ),
    path(
        "<account:account_number>/api-access/clouds.yaml",
        api_access.clouds_yaml,
        name="clouds-yaml",
    ),
    path(
        "<account:account_number>/api-access/<uuid:credential_id>/delete/",
        api_access.delete_credential,
        name="delete-credential",
    ),
    path("<account:account_number>/users/", users.user_list, name="users"),
    path("<account:account_number>/users/invite/", users.invite, name="invite"),
    path("<account:account_number>/users/<int:user_id>/", users.user, name="user"),
    path(
        "<account:account_number>/users/<int:user_id>/remove/",
        users.remove,
        name="remove-user",
    ),
    path(
        "<account:account_number>/users/<int:user_id>/deactivate/",
        users.deactivate,
        name="deactivate-user",
    ),
    path(
        "<account:account_number>/users/<int:user_id>/reactivate/",
        users.reactivate,
        name="reactivate-user",
    ),
    path(
        "<account:account_number>/invitations/<int:invitation_id>/withdraw/",
        users.withdraw_invitation,
        name="withdraw-invitation",
    ),
]
urlpatterns = [
    path("", views.home, name="home"),
    path("login/", security.Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", include((pages, "accounts"))),
]
