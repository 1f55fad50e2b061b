from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from kshot.bundle import Bundle, Head, HeadPolicy, Manifest, StepCountRule
from kshot.client.capabilities import decode_capabilities
from kshot.server.access.limits import Limits
from kshot.server.config import ServerConfig
from kshot.server.predict.catalog import Catalog, ServedModel
from kshot.server.rpc.capabilities import capabilities_message


def test_the_default_steps_by_shot_are_listed(manifest: Manifest, tmp_path: Path) -> None:
    """Class means alone with one example; tasks that no rule fits take the other default."""
    rules = (StepCountRule(max_shot=1, step_count=0), StepCountRule(max_shot=5, step_count=3))
    by_shot = replace(
        manifest,
        inner_loop=replace(manifest.inner_loop, step_count_by_shot=rules),
        head=HeadPolicy(Head.PROTOTYPE, (Head.PROTOTYPE,)),
    )
    bundle = Bundle(tmp_path, by_shot, "d" * 64)
    catalog = Catalog([ServedModel(bundle, predictor=cast(Any, SimpleNamespace(mac_count=7)))])
    config = ServerConfig(bundles=(tmp_path,), store=tmp_path)

    limits = Limits(max_models=3, max_calls=2)
    message = capabilities_message(catalog.by_name, config, None, ("a", limits))
    answer = decode_capabilities(message)

    (model,) = answer.models.values()
    assert model.image_mac_count == 7
    assert answer.max_predict_mac_count == config.max_predict_macs
    assert model.step_count_by_shot == ((1, 0), (5, 3))
    assert model.default_options.step_count == manifest.inner_loop.step_count
    assert message.limits.request_id_ttl.seconds == 3600
    assert message.limits.tenant == "a"
    assert message.limits.tenant_adapted_model_count == 3
    assert message.limits.tenant_call_count == 2
