from kshot.gateway.routes import ROUTES, SERVICE, Body


def test_every_rpc_has_one_route() -> None:
    assert sorted(route.rpc for route in ROUTES) == sorted(SERVICE.methods_by_name)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_only_requests_that_change_something_have_a_body() -> None:
    for route in ROUTES:
        assert (route.body in (Body.JSON, Body.FILE)) == (route.method in ("POST", "PATCH"))
