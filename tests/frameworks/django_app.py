"""Django with psycopg: a middleware opens the transaction and chooses the tenant; without a pool each request has a connection of its own."""

import os
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings
from django.db import connections, models, transaction
from django.http import JsonResponse
from django.urls import path

from served import GATEWAY, LOGINS, DB_PORT, POOL, login, told

IS_POOLED = sys.argv[1] == "pool"
OPTIONS = {"pool": {"min_size": 1, "max_size": POOL // len(LOGINS), "timeout": 30}} if IS_POOLED else {}
OPTIONS["server_side_binding"] = len(sys.argv) > 2
settings.configure(
    DEBUG=False, SECRET_KEY="for a test", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, INSTALLED_APPS=[], USE_TZ=True,
    MIDDLEWARE=[f"{__name__}.tenant_of_request"],
    DATABASES={(name if name != LOGINS[0] else "default"): {
        "ENGINE": "django.db.backends.postgresql", "NAME": "app", "USER": name, "PASSWORD": f"{name}-secret", "HOST": "127.0.0.1",
        "PORT": DB_PORT, "CONN_MAX_AGE": 0, "OPTIONS": OPTIONS} for name in LOGINS},
)
django.setup()


class Order(models.Model):
    tenant_id = models.TextField()
    id = models.IntegerField(primary_key=True)
    note = models.TextField()

    class Meta:
        app_label, db_table, managed = "shop", "orders", False


def tenant_of_request(get_response):
    def middleware(request):
        tenant = request.path.split("/")[1]
        request.alias = "default" if login(tenant) == LOGINS[0] else login(tenant)
        try:
            with transaction.atomic(using=request.alias):
                if GATEWAY:
                    with connections[request.alias].cursor() as cursor:
                        cursor.execute("SELECT set_config('app.tenant_id', %s, true)", [tenant])
                return get_response(request)
        except Exception as error:
            return JsonResponse({"error": told(error)}, status=500)
    return middleware


def orders(request, tenant, number):
    rows = list(Order.objects.using(request.alias).filter(id__lte=10).order_by("id").values("tenant_id", "id", "note"))
    with connections[request.alias].cursor() as cursor:
        cursor.execute("INSERT INTO items (id, n) VALUES (%s, %s)", [number, len(rows)])
    return JsonResponse({"rows": rows})


def failed(request):
    error = sys.exc_info()[1]
    return JsonResponse({"error": told(error)}, status=500)


handler500 = failed
urlpatterns = [path("<str:tenant>/<int:number>", orders)]


class Server(ThreadingMixIn, WSGIServer):
    request_queue_size, daemon_threads = 200, True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


if __name__ == "__main__":
    from django.core.wsgi import get_wsgi_application

    sys.modules[settings.ROOT_URLCONF] = sys.modules["__main__"]
    make_server("127.0.0.1", int(os.environ["APP_PORT"]), get_wsgi_application(), Server, Quiet).serve_forever()
