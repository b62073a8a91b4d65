"""The server of gRPC's route guide: on ipcd guide_server.py, on grpcio guide_server_grpcio.py."""

# ruff: noqa: N802 - the methods are named as in the .proto

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import grpc
import ipcd_client
from places import FEATURES, distance, lies_in
from routeguide_pb.routeguide.v1 import routeguide_pb2, routeguide_pb2_grpc

ADDRESS = os.environ.get("GUIDE_ADDRESS", "localhost:50051")


class RouteGuide(routeguide_pb2_grpc.RouteGuideServicer):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: list[routeguide_pb2.RouteNote] = []

    def GetFeature(self, request: routeguide_pb2.Point, context: grpc.ServicerContext) -> routeguide_pb2.Feature:
        for feature in FEATURES:
            if feature.location == request:
                return feature
        return routeguide_pb2.Feature(location=request)

    def ListFeatures(
        self, request: routeguide_pb2.Rectangle, context: grpc.ServicerContext
    ) -> Iterator[routeguide_pb2.Feature]:
        for feature in FEATURES:
            if lies_in(feature.location, request):
                yield feature

    def RecordRoute(
        self, request_iterator: Iterator[routeguide_pb2.Point], context: grpc.ServicerContext
    ) -> routeguide_pb2.RouteSummary:
        route = list(request_iterator)
        return routeguide_pb2.RouteSummary(
            points=len(route),
            features=sum(feature.location in route for feature in FEATURES),
            distance=round(sum(distance(one, other) for one, other in pairwise(route))),
        )

    def RouteChat(
        self, request_iterator: Iterator[routeguide_pb2.RouteNote], context: grpc.ServicerContext
    ) -> Iterator[routeguide_pb2.RouteNote]:
        for note in request_iterator:
            with self._lock:
                before = [each for each in self._notes if each.location == note.location]
                self._notes.append(note)
            yield from before


def main() -> None:
    server = ipcd_client.server(ThreadPoolExecutor(max_workers=10))
    routeguide_pb2_grpc.add_RouteGuideServicer_to_server(RouteGuide(), server)
    port = server.add_insecure_port(ADDRESS)
    server.start()
    try:
        print(f"serving routeguide.v1.RouteGuide; gRPC's port is {port}", flush=True)
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
