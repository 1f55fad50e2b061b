"""Exchanges about the adapted models that a server keeps."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from kshot.client.encoding import decode_description, encode_renewal
from kshot.client.exchange.call import Call, Exchange, ask
from kshot.client.exchange.files import TellBytes, read_import
from kshot.client.exchange.known_server import KnownServer
from kshot.client.kept_model import KeptModel, check_id
from kshot.client.options import encode_choice, set_duration
from kshot.client.values import check_path, check_text
from kshot.v1 import adaptation_pb2 as wire

_PAGE_SIZE = 100  # the server's maximum


def get(server: KnownServer, adapted_model: str) -> Exchange[KeptModel]:
    """Look an adapted model up by its id."""
    request = wire.GetAdaptedModelRequest(adapted_model=check_id(adapted_model))
    call = Call("GetAdaptedModel", request, server.patience())
    response, _ = yield from ask(call, wire.GetAdaptedModelResponse)
    return KeptModel(decode_description(response.adapted_model))


def list_page(
    server: KnownServer, model: str, words: str, token: str
) -> Exchange[tuple[list[KeptModel], str]]:
    """Return a page of the models that fit `model` and the filter, and the token of the next."""
    request = wire.ListAdaptedModelsRequest(
        page_size=_PAGE_SIZE,
        page_token=token,
        model=check_text("model", model),
        filter=check_text("filter", words),
    )
    call = Call("ListAdaptedModels", request, server.patience())
    response, _ = yield from ask(call, wire.ListAdaptedModelsResponse)
    page = [KeptModel(decode_description(each)) for each in response.adapted_models]
    return page, response.next_page_token


def renew(
    server: KnownServer,
    adapted_model: KeptModel | str,
    ttl: float | timedelta | None,
    expire_at: datetime | None,
    etag: str,
) -> Exchange[KeptModel]:
    """Change when a model expires; what a handle knows beside the description stays."""
    request = encode_renewal(check_id(adapted_model), ttl, expire_at)
    request.etag = check_text("etag", etag)
    call = Call("UpdateAdaptedModel", request, server.patience())
    response, _ = yield from ask(call, wire.UpdateAdaptedModelResponse)
    description = decode_description(response.adapted_model)
    if not isinstance(adapted_model, KeptModel):
        return KeptModel(description)
    return KeptModel(description, adapted_model.labels, adapted_model.report, adapted_model.timing)


def import_model(
    server: KnownServer,
    path: str | Path,
    ttl: float | timedelta | None,
    timeout: float | None,
    progress: TellBytes | None,
) -> Exchange[KeptModel]:
    """Keep a model again that was exported to a file."""
    header = wire.ImportHeader()
    if ttl is not None:
        set_duration(header.ttl, "ttl", ttl)
        header.ttl.SetInParent()
    patience = server.patience(timeout)
    parts = read_import(check_path("path", path), header, progress)
    call = Call("ImportAdaptedModel", parts, patience)
    response, _ = yield from ask(call, wire.ImportAdaptedModelResponse)
    return KeptModel(decode_description(response.adapted_model))


def delete(server: KnownServer, adapted_model: KeptModel | str) -> Exchange[None]:
    """Delete an adapted model, given as a handle or by its id."""
    request = wire.DeleteAdaptedModelRequest(adapted_model=check_id(adapted_model))
    call = Call("DeleteAdaptedModel", request, server.patience())
    yield from ask(call, wire.DeleteAdaptedModelResponse)


def export_call(
    server: KnownServer, adapted_model: KeptModel | str, batch_norm_mode: str | None
) -> Call:
    """Return the call whose response has an adapted model as a file, in parts."""
    request = wire.ExportAdaptedModelRequest(adapted_model=check_id(adapted_model))
    if batch_norm_mode is not None:
        request.batch_norm_mode = encode_choice("batch_norm_mode", batch_norm_mode)
    return Call("ExportAdaptedModel", request, server.patience())
