import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from kshot.gateway.errors import response_of


def test_a_caller_waits_at_least_as_long_as_it_is_told() -> None:
    packed = any_pb2.Any()
    packed.Pack(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
    )
    details = status_pb2.Status(details=[packed]).SerializeToString()
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(("grpc-status-details-bin", details)),
    )

    answer = response_of(error)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
