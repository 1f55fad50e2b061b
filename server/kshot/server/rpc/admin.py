"""`kshot.v1.AdminService`, thin over the front; the gate lets administrators in alone."""

from __future__ import annotations

from kshot.server.front import Front
from kshot.v1 import admin_pb2_grpc as wire_grpc


class AdminServicer(wire_grpc.AdminServiceServicer):
    """The service; a method that is not here is answered with UNIMPLEMENTED."""

    def __init__(self, front: Front) -> None:
        self._front = front
