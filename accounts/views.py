from typing import cast

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from accounts.models import Account, User


def home(request: HttpRequest) -> HttpResponse:
    """Lead to the pages of an account: the home account first, else any other."""
    user = cast(User, request.user)
    accounts = list(Account.objects.open_to(user).order_by("name")[:100])
    accounts.sort(key=lambda account: account.pk != user.home_account_id)
    if accounts:
        return redirect("images:list", accounts[0].pk)
    return render(request, "accounts/no_account.html")
